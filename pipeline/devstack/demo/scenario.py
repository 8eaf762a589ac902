"""Who plays: the demo's emails, and what Fast Track must hear of each. Written by hand, not computed by the product."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

BRANDS: Final = {1: "nordlicht", 2: "suedwind"}
"""Fast Track's brand_id, and the path under which its conversions must arrive."""


@dataclass(frozen=True)
class Scene:
    """One kind of fate: the pattern in the address, how many per brand, the words owed, in order."""

    title: str
    pattern: str
    emails: int
    owed: tuple[str, ...]


SCENES: Final = (
    Scene("arrives, is never opened", "", 14, ("delivered",)),
    Scene("is opened", "open", 14, ("delivered", "open")),
    Scene("is opened, its link followed", "open+click", 12, ("delivered", "open", "click")),
    Scene("is called spam", "complaint", 1, ("delivered", "spam")),
    Scene("is opened, then called spam", "open+complaint", 1, ("delivered", "open", "spam")),
    Scene("no such mailbox: refused at once", "bounce", 2, ("bounce",)),
    Scene("mailbox full: refused at once", "bounce-soft", 1, ("bounce",)),
    Scene("bounces later, by webhook", "bounce-later", 1, ("bounce",)),
    Scene("arrives, and bounces all the same", "delivered+bounce-later", 1, ("delivered", "bounce")),
    Scene("deferred once, then taken", "deferred-1", 1, ("delivered",)),
    Scene("deferred until we give up", "deferred-forever", 1, ("failed",)),
    Scene("connection lost after DATA", "drop-after-data-1", 1, ("delivered",)),
    Scene("webhooks three times", "duplicated+open", 1, ("delivered", "open")),
    Scene("webhooks in the wrong order", "complaint+disordered", 1, ("spam", "delivered")),
    Scene("webhooks later than the opening", "late-4+open", 1, ("open", "delivered")),
    Scene("a forged bounce besides", "forged", 1, ("delivered",)),
    Scene("opened by a robot only", "open-machine", 1, ("delivered",)),
    Scene("a silent provider", "silent+open", 1, ("open",)),
)
"""Together more than one page of the history."""
DROPPED: Final = Scene("second batch, to who had bounced", "bounce", 2, ("dropped",))
"""To the same addresses as the first batch's hard bounces."""


@dataclass(frozen=True)
class Role:
    """One email of the demo."""

    scene: Scene
    brand: int
    identity: str
    address: str
    activity: bytes = field(repr=False)
    """As it will lie in the batch, byte for byte."""
    amp: bool = False

    @property
    def path(self) -> str:
        """Where its conversions must arrive."""
        return BRANDS[self.brand]


def first_batches() -> list[Role]:
    """Everything but the suppressed ones, brand by brand."""
    return [role for brand in BRANDS for scene in SCENES for role in _roles(scene, brand, "first")]


def second_batches() -> list[Role]:
    """To addresses that bounced: nothing of it may leave the house."""
    return [role for brand in BRANDS for role in _roles(DROPPED, brand, "second")]


def rehearsal() -> list[Role]:
    """One email per brand, to see that everything is up."""
    scene = Scene("the rehearsal", "", 1, ("delivered",))
    return [role for brand in BRANDS for role in _roles(scene, brand, "rehearsal")]


def batch(roles: list[Role]) -> bytes:
    """The request's body. Put together from bytes, so that each activity stays as it was written."""
    return b"[" + b",\n ".join(_message(role) for role in roles) + b"]"


def _roles(scene: Scene, brand: int, act: str) -> Iterator[Role]:
    for number in range(1, scene.emails + 1):
        name = f"player{number}"
        pattern = scene.pattern or "plain"
        identity = f"{act}-{BRANDS[brand]}-{pattern.replace('+', '-')}-{number}"
        address = f"{name}+{pattern}@example.test"
        yield Role(scene, brand, identity, address, _activity(identity, brand, number), amp=number == 2)


def _activity(identity: str, brand: int, number: int) -> bytes:
    """All that a caller's JSON may hold: blanks, escapes, numbers beyond 64 bits, unknown fields, nesting."""
    return (
        f'{{ "id":{json.dumps(identity)}, "brand_id": {brand},\t"user_id": "Zoë-{number} 😀",'
        f' "internal_user_id": {10**24 + number}, "activity_id":7, "action_group_id":-0,'
        f' "trigger_hash": "\\u00e9\\/{number}\\ud83d\\ude00", "action_id": 3,'
        f' "x_not_documented": {{"deep": [1.50, 1e3, -0.0, null, true, {{"ключ": "значение"}}], "": []}} }}'
    ).encode()


def _message(role: Role) -> bytes:
    sender = BRANDS[role.brand]
    fields = {
        "subject": f"{role.scene.title} · {sender}",
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
