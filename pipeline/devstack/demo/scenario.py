"""The demo's emails and the conversions that Fast Track must receive for each, written by hand; used by its run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

BRAND_PATHS: Final = {1: "nordlicht", 2: "suedwind"}
"""Path to which a brand's conversions must be posted, by Fast Track's brand_id."""


@dataclass(frozen=True)
class DemoCase:
    """A kind of email: the pattern in its address, how many per brand, and its conversions in order."""

    title: str
    pattern: str
    emails_per_brand: int
    expected_words: tuple[str, ...]


DEMO_CASES: Final = (
    DemoCase("delivered, never opened", "", 14, ("delivered",)),
    DemoCase("opened", "open", 14, ("delivered", "open")),
    DemoCase("opened, link clicked", "open+click", 12, ("delivered", "open", "click")),
    DemoCase("reported as spam", "complaint", 1, ("delivered", "spam")),
    DemoCase("opened, reported as spam", "open+complaint", 1, ("delivered", "open", "spam")),
    DemoCase("refused: no such mailbox", "bounce", 2, ("bounce",)),
    DemoCase("refused: mailbox full", "bounce-soft", 1, ("bounce",)),
    DemoCase("bounces later", "bounce-later", 1, ("bounce",)),
    DemoCase("delivered, bounces later", "delivered+bounce-later", 1, ("delivered", "bounce")),
    DemoCase("deferred once", "deferred-1", 1, ("delivered",)),
    DemoCase("deferred, then given up", "deferred-forever", 1, ("failed",)),
    DemoCase("connection lost in reply", "drop-after-data-1", 1, ("delivered",)),
    DemoCase("webhooks sent three times", "duplicated+open", 1, ("delivered", "open")),
    DemoCase("webhooks in wrong order", "complaint+disordered", 1, ("spam", "delivered")),
    DemoCase("webhooks after the open", "late-4+open", 1, ("open", "delivered")),
    DemoCase("with a forged bounce", "forged", 1, ("delivered",)),
    DemoCase("opened by a robot only", "open-machine", 1, ("delivered",)),
    DemoCase("provider never reports", "silent+open", 1, ("open",)),
)
"""More emails together than one page of the history has. Titles have at most 26 characters, to fit a terminal."""
SUPPRESSED_CASE: Final = DemoCase("sent to bounced address", "bounce", 2, ("dropped",))
"""Emails to the addresses of the first batch's hard bounces, which are suppressed by then."""


@dataclass(frozen=True)
class DemoEmail:
    """One email of the demo."""

    case: DemoCase
    brand: int
    identity: str
    address: str
    activity: bytes = field(repr=False)
    """Bytes of the activity in the batch."""
    amp: bool = False

    @property
    def path(self) -> str:
        """Path to which the conversions must be posted."""
        return BRAND_PATHS[self.brand]


def first_emails() -> list[DemoEmail]:
    """Return the first batches' emails, brand by brand."""
    return [email for brand in BRAND_PATHS for case in DEMO_CASES for email in _emails(case, brand, "first")]


def second_emails() -> list[DemoEmail]:
    """Return emails to addresses that bounced, none of which may be sent."""
    return [email for brand in BRAND_PATHS for email in _emails(SUPPRESSED_CASE, brand, "second")]


def warm_up_emails() -> list[DemoEmail]:
    """Return one email per brand, sent first to see that every role works."""
    case = DemoCase("trial, delivered", "", 1, ("delivered",))
    return [email for brand in BRAND_PATHS for email in _emails(case, brand, "trial")]


def batch_body(emails: list[DemoEmail]) -> bytes:
    """Return the body of a batch, joined from bytes so that each activity stays as it was written."""
    return b"[" + b",\n ".join(_message(email) for email in emails) + b"]"


def _emails(case: DemoCase, brand: int, batch: str) -> Iterator[DemoEmail]:
    for number in range(1, case.emails_per_brand + 1):
        name = f"player{number}"
        pattern = case.pattern or "plain"
        identity = f"{batch}-{BRAND_PATHS[brand]}-{pattern.replace('+', '-')}-{number}"
        address = f"{name}+{pattern}@example.test"
        yield DemoEmail(case, brand, identity, address, _activity(identity, brand, number), amp=number == 2)


def _activity(identity: str, brand: int, number: int) -> bytes:
    """Return an activity with all that JSON allows: blanks, escapes, large numbers, unknown fields, nesting."""
    return (
        f'{{ "id":{json.dumps(identity)}, "brand_id": {brand},\t"user_id": "Zoë-{number} 😀",'
        f' "internal_user_id": {10**24 + number}, "activity_id":7, "action_group_id":-0,'
        f' "trigger_hash": "\\u00e9\\/{number}\\ud83d\\ude00", "action_id": 3,'
        f' "x_not_documented": {{"deep": [1.50, 1e3, -0.0, null, true, {{"ключ": "значение"}}], "": []}} }}'
    ).encode()


def _message(email: DemoEmail) -> bytes:
    sender = BRAND_PATHS[email.brand]
    fields = {
        "subject": f"{email.case.title} · {sender}",
        "content": f'<p>Hello from {sender}!</p><p><a href="https://{sender}.test/?a=1&amp;b=2">Your offer</a></p>',
        "email": email.address,
        "sender_name": sender.title(),
        "sender_address": f"news@{sender}.test",
        "replyto_address": f"help@{sender}.test",
    }
    if email.amp:
        fields["amp_content"] = "<!doctype html><html ⚡4email><head></head><body>Hello, AMP</body></html>"
    rest = json.dumps(fields, ensure_ascii=False).encode()
    return b'{"activity": ' + email.activity + b", " + rest[1:]
