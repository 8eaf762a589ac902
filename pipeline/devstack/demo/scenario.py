"""Who plays: the demo's emails, and what Fast Track must hear of each. Written by hand, not computed by the product."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

BRAND_PATHS: Final = {1: "nordlicht", 2: "suedwind"}
"""Fast Track's brand_id, and the path under which its conversions must arrive."""


@dataclass(frozen=True)
class DemoCase:
    """One kind of fate: the pattern in the address, how many per brand, the words owed, in order."""

    title: str
    pattern: str
    emails_per_brand: int
    expected_words: tuple[str, ...]


DEMO_CASES: Final = (
    DemoCase("arrives, is never opened", "", 14, ("delivered",)),
    DemoCase("is opened", "open", 14, ("delivered", "open")),
    DemoCase("is opened, its link followed", "open+click", 12, ("delivered", "open", "click")),
    DemoCase("is called spam", "complaint", 1, ("delivered", "spam")),
    DemoCase("is opened, then called spam", "open+complaint", 1, ("delivered", "open", "spam")),
    DemoCase("no such mailbox: refused at once", "bounce", 2, ("bounce",)),
    DemoCase("mailbox full: refused at once", "bounce-soft", 1, ("bounce",)),
    DemoCase("bounces later, by webhook", "bounce-later", 1, ("bounce",)),
    DemoCase("arrives, and bounces all the same", "delivered+bounce-later", 1, ("delivered", "bounce")),
    DemoCase("deferred once, then taken", "deferred-1", 1, ("delivered",)),
    DemoCase("deferred until we give up", "deferred-forever", 1, ("failed",)),
    DemoCase("connection lost after DATA", "drop-after-data-1", 1, ("delivered",)),
    DemoCase("webhooks three times", "duplicated+open", 1, ("delivered", "open")),
    DemoCase("webhooks in the wrong order", "complaint+disordered", 1, ("spam", "delivered")),
    DemoCase("webhooks later than the opening", "late-4+open", 1, ("open", "delivered")),
    DemoCase("a forged bounce besides", "forged", 1, ("delivered",)),
    DemoCase("opened by a robot only", "open-machine", 1, ("delivered",)),
    DemoCase("a silent provider", "silent+open", 1, ("open",)),
)
"""Together more than one page of the history."""
SUPPRESSED_CASE: Final = DemoCase("second batch, to who had bounced", "bounce", 2, ("dropped",))
"""To the same addresses as the first batch's hard bounces."""


@dataclass(frozen=True)
class DemoEmail:
    """One email of the demo."""

    case: DemoCase
    brand: int
    identity: str
    address: str
    activity: bytes = field(repr=False)
    """As it will lie in the batch, byte for byte."""
    amp: bool = False

    @property
    def path(self) -> str:
        """Where its conversions must arrive."""
        return BRAND_PATHS[self.brand]


def first_emails() -> list[DemoEmail]:
    """Everything but the suppressed ones, brand by brand."""
    return [role for brand in BRAND_PATHS for scene in DEMO_CASES for role in _roles(scene, brand, "first")]


def second_emails() -> list[DemoEmail]:
    """To addresses that bounced: nothing of it may leave the house."""
    return [role for brand in BRAND_PATHS for role in _roles(SUPPRESSED_CASE, brand, "second")]


def warm_up_emails() -> list[DemoEmail]:
    """One email per brand, to see that everything is up."""
    scene = DemoCase("the rehearsal", "", 1, ("delivered",))
    return [role for brand in BRAND_PATHS for role in _roles(scene, brand, "rehearsal")]


def batch_body(roles: list[DemoEmail]) -> bytes:
    """The request's body. Put together from bytes, so that each activity stays as it was written."""
    return b"[" + b",\n ".join(_message(role) for role in roles) + b"]"


def _roles(scene: DemoCase, brand: int, act: str) -> Iterator[DemoEmail]:
    for number in range(1, scene.emails_per_brand + 1):
        name = f"player{number}"
        pattern = scene.pattern or "plain"
        identity = f"{act}-{BRAND_PATHS[brand]}-{pattern.replace('+', '-')}-{number}"
        address = f"{name}+{pattern}@example.test"
        yield DemoEmail(scene, brand, identity, address, _activity(identity, brand, number), amp=number == 2)


def _activity(identity: str, brand: int, number: int) -> bytes:
    """All that a caller's JSON may hold: blanks, escapes, numbers beyond 64 bits, unknown fields, nesting."""
    return (
        f'{{ "id":{json.dumps(identity)}, "brand_id": {brand},\t"user_id": "Zoë-{number} 😀",'
        f' "internal_user_id": {10**24 + number}, "activity_id":7, "action_group_id":-0,'
        f' "trigger_hash": "\\u00e9\\/{number}\\ud83d\\ude00", "action_id": 3,'
        f' "x_not_documented": {{"deep": [1.50, 1e3, -0.0, null, true, {{"ключ": "значение"}}], "": []}} }}'
    ).encode()


def _message(role: DemoEmail) -> bytes:
    sender = BRAND_PATHS[role.brand]
    fields = {
        "subject": f"{role.case.title} · {sender}",
        "content": f'<p>Hello from {sender}!</p><p><a href="https://{sender}.test/?a=1&amp;b=2">Your offer</a></p>',
        "email": role.address,
        "sender_name": sender.title(),
        "sender_address": f"news@{sender}.test",
        "replyto_address": f"help@{sender}.test",
    }
    if role.amp:
        fields["amp_content"] = "<!doctype html><html ⚡4email><head></head><body>Hello, AMP</body></html>"
    rest = json.dumps(fields, ensure_ascii=False).encode()
    return b'{"activity": ' + role.activity + b", " + rest[1:]
