"""The data of the stages: emails, facts and changes, each determined by its number. Pure."""

import json
import time

import msgspec

from bench.house import BRAND, TENANT
from pipeline.worker.fold import evolve
from topics import ids
from topics.acks import Acked
from topics.changes import AppliedFact, EmailChange, Fact
from topics.contents import MessageContent
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId, LogPosition
from topics.requests import ContentPointer, Mailbox, SendRequest
from topics.states import EmailState

HTML = "<p>" + "".join(f"Line {number}: the quick brown fox, {number * 7919}. " for number in range(120)) + "</p>"
"""5 kB of HTML, as a newsletter has, and not so regular that it compresses to nothing."""
HTML = HTML[:4_900] + '<p><a href="https://brand.test/offer">Your offer</a></p>'
NOW = int(time.time() * 1000)


def html(number: int) -> str:
    """Return the HTML of a message: each recipient's differs, so that nothing can be prepared once for all."""
    return f"<p>Dear player {number},</p>{HTML}"


def activity(number: int) -> bytes:
    """Return a caller's activity of a typical size."""
    return json.dumps(
        {
            "id": f"bench-{number}",
            "brand_id": int(BRAND),
            "user_id": f"player-{number}",
            "internal_user_id": 10**12 + number,
            "activity_id": 7,
            "action_group_id": 9,
            "trigger_hash": "a3f5c1",
            "action_id": 3,
        }
    ).encode()


def message(number: int, pattern: str) -> bytes:
    """Return one message of a batch; ``pattern`` is the part of the address that the sandbox interprets."""
    fields = {
        "subject": f"Offer {number}",
        "content": html(number),
        "email": f"player{number}{pattern}@example.test",
        "sender_name": "Brand",
        "sender_address": "news@brand.test",
        "replyto_address": "help@brand.test",
    }
    return b'{"activity":' + activity(number) + b"," + json.dumps(fields).encode()[1:]


def batch(numbers: range, pattern: str = "+silent") -> bytes:
    """Return the body of a batch."""
    return b"[" + b",".join(message(number, pattern) for number in numbers) + b"]"


def email_id(number: int) -> EmailId:
    """Return the email id that the gateway assigns."""
    return ids.email_id(TENANT, "fasttrack", f"bench-{number}")


def content(number: int) -> MessageContent:
    """Return the content of a message."""
    return MessageContent(html=html(number))


def request(number: int, pointer: ContentPointer | None = None, pattern: str = "+silent") -> SendRequest:
    """Return the record of an accepted email."""
    return SendRequest(
        email_id=email_id(number),
        message_id=ids.message_id(TENANT, "fasttrack", f"bench-{number}"),
        tenant=TENANT,
        dialect="fasttrack",
        brand=BRAND,
        recipient=f"player{number}{pattern}@example.test",
        recorded_at=NOW,
        identity=f"bench-{number}",
        sender=Mailbox(address="news@brand.test", name="Brand"),
        subject=f"Offer {number}",
        activity=msgspec.Raw(activity(number)),
        content=pointer,
    )


def acked(number: int) -> Acked:
    """Return the ack of an email that the provider accepted."""
    return Acked(
        email_id=email_id(number),
        event_id=f"ack:{number}",
        occurred_at=NOW + 10,
        recorded_at=NOW + 10,
        provider="sandbox",
        code=250,
        text="2.0.0 Ok",
        provider_message_id=f"q{number}",
    )


def event(number: int, kind: EventKind, ordinal: int = 0) -> DeliveryEvent:
    """Return a provider's event about an email."""
    return DeliveryEvent(
        email_id=email_id(number),
        event_id=f"bench:{number}:{kind}:{ordinal}",
        kind=kind,
        occurred_at=NOW + 1000 + ordinal,
        recorded_at=NOW + 1000 + ordinal,
        provider="sandbox",
        native=msgspec.Raw(b'{"event":"x","sg_event_id":"abcdefghijklmnop","timestamp":1700000000}'),
    )


def facts(number: int) -> list[Fact]:
    """Return the facts of an email: request, ack, delivered, opened."""
    return [
        request(number),
        acked(number),
        event(number, EventKind.DELIVERED),
        event(number, EventKind.OPENED),
    ]


def changes(number: int) -> list[EmailChange]:
    """Return the changes that the fold makes of the facts of an email, one per fact."""
    made: list[EmailChange] = []
    state: EmailState | None = None
    for offset, fact in enumerate(facts(number)):
        state = evolve(state, fact)
        applied = AppliedFact(place=LogPosition(topic="bench", partition=0, offset=number * 10 + offset), fact=fact)
        made.append(EmailChange(email_id=state.email_id, recorded_at=NOW, facts=(applied,), state=state))
    return made
