"""Generate `delivery-events` of many emails in log order from a seed, as a provider would send them. Pure.

The events of an email are far apart, some are repeated and some are late, so that nearly every event writes a state.
"""

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId, Millis

BEGAN: Final = 1_750_000_000_000
STEP: Final = 7
"""Milliseconds between two records."""
FUTURE: Final = 0.01
"""Share of events with a time that is ahead of our clock."""

_TAIL: Final = (
    (EventKind.OPENED, 60),
    (EventKind.CLICKED, 30),
    (EventKind.UNSUBSCRIBED, 4),
    (EventKind.COMPLAINED, 3),
    (EventKind.REPLIED, 2),
    (EventKind.UNKNOWN, 1),
)
_WORDS: Final = {
    EventKind.QUEUED: "processed",
    EventKind.DEFERRED: "deferred",
    EventKind.DELIVERED: "delivered",
    EventKind.OPENED: "open",
    EventKind.CLICKED: "click",
    EventKind.BOUNCED: "bounce",
    EventKind.DROPPED: "dropped",
    EventKind.COMPLAINED: "spamreport",
    EventKind.UNSUBSCRIBED: "unsubscribe",
}
_AGENTS: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
)
_REFUSALS: Final = (
    (550, "5.1.1", "550 5.1.1 The email account that you tried to reach does not exist", "Invalid Address", True),
    (550, "5.7.1", "550 5.7.1 Nachricht abgewiesen: Versand über diese Adresse gesperrt", "Reputation", False),
    (552, "5.2.2", '552 5.2.2 "mailbox full" / Postfach voll ✉', "Mailbox Unavailable", False),
    (554, "", "554 delivery error: dd This user doesn't have an account\t[-5]", "Unclassified", True),
)
_DELAYS: Final = ("451 4.7.1 Greylisted, try again in 300 seconds", "421 4.7.0 Too many connections from your IP")


@dataclass(frozen=True)
class Shape:
    """The amounts and shares of the generated traffic."""

    events: int
    emails: int
    seed: int = 1
    repeats: float = 0.05
    """Share of records that repeat an earlier one of the same email."""
    late: float = 0.05
    """Share of records that are out of order with the record before them."""


class _Due(NamedTuple):
    kind: EventKind
    at: Millis


class _Life:
    """The state of one email during generation: its remaining events and those already generated."""

    __slots__ = ("due", "email_id", "held", "repeats", "told")

    def __init__(self, email_id: EmailId, due: list[EventKind], repeats: int) -> None:
        self.email_id = email_id
        self.due = due
        self.repeats = repeats
        self.held: _Due | None = None
        self.told: list[DeliveryEvent] = []


def traffic(shape: Shape) -> Iterator[DeliveryEvent]:
    """Yield the events of the topic, in order."""
    dice = random.Random(shape.seed)  # the same traffic for the same seed
    repeated = int(shape.events * shape.repeats)
    distinct = shape.events - repeated
    counts = [1] * shape.emails
    for email in dice.choices(range(shape.emails), k=max(0, distinct - shape.emails)):
        counts[email] += 1
    repeats = [0] * shape.emails
    for email in dice.choices(range(shape.emails), k=repeated):
        repeats[email] += 1
    slots = [email for email in range(shape.emails) for _ in range(counts[email] + repeats[email])][: shape.events]
    dice.shuffle(slots)
    # Holding back an event makes one of two records late, and the last event of an email cannot be held back.
    held = shape.late * shape.events / max(1, distinct - shape.emails)
    lives: dict[int, _Life] = {}
    for number, email in enumerate(slots):
        if email not in lives:
            lives[email] = _Life(_email_id(dice), _kinds(dice, counts[email]), repeats[email])
        life = lives[email]
        yield _next(dice, life, BEGAN + number * STEP, held)
        if not life.repeats and not life.due and life.held is None:
            del lives[email]


def _next(dice: random.Random, life: _Life, now: Millis, held: float) -> DeliveryEvent:
    left = len(life.due) + (life.held is not None)
    if life.told and dice.random() * (left + life.repeats) < life.repeats:
        life.repeats -= 1
        return msgspec.structs.replace(dice.choice(life.told), recorded_at=now)
    event = _event(dice, life.email_id, _pick(dice, life, now, held), now)
    if life.repeats:
        life.told.append(event)
    return event


def _pick(dice: random.Random, life: _Life, now: Millis, held: float) -> _Due:
    """Return the next event of an email: the one held back, or the next one due, which may be held back in turn."""
    if life.held is not None:
        due, life.held = life.held, None
        return due
    at = now - dice.randrange(200, 4_000)
    if len(life.due) > 1 and dice.random() < held:
        life.held = _Due(life.due.pop(0), at - dice.randrange(1_000, 60_000))
    return _Due(life.due.pop(0), at)


def _email_id(dice: random.Random) -> EmailId:
    return EmailId(str(uuid.UUID(int=dice.getrandbits(128), version=4)))


def _kinds(dice: random.Random, count: int) -> list[EventKind]:
    """Return the kinds of the ``count`` events of an email, in order."""
    fate = dice.random()
    if fate < 0.01:
        return [EventKind.DROPPED] * count
    if fate < 0.05:
        return [EventKind.QUEUED, *[EventKind.DEFERRED] * (count - 2), EventKind.BOUNCED][-count:]
    start = [EventKind.QUEUED, EventKind.DELIVERED] if fate > 0.1 else [EventKind.DEFERRED, EventKind.DELIVERED]
    tail = dice.choices([kind for kind, _ in _TAIL], [weight for _, weight in _TAIL], k=max(0, count - 2))
    return [*start, *tail][:count]


def _event(dice: random.Random, email_id: EmailId, due: _Due, now: Millis) -> DeliveryEvent:
    occurred_at = now + dice.randrange(5_000) if dice.random() < FUTURE else due.at
    own = f"{dice.getrandbits(132):033x}"
    message = f"{email_id[:22]}.recvd-canary-5f5559d9b-{email_id[24:29]}-1-{email_id[:8].upper()}-44.0"
    more = _more(dice, due.kind)
    native = {
        "timestamp": occurred_at // 1000,
        "event": _WORDS.get(due.kind, "group_resubscribe"),
        "category": ["news"],
        "sg_event_id": own,
        "sg_message_id": message,
        "mailfold_email_id": email_id,
        **{_NATIVE[name]: value for name, value in more.items() if name in _NATIVE},
    }
    return DeliveryEvent(
        email_id=email_id,
        event_id=f"sendgrid:{own}",
        kind=due.kind,
        occurred_at=occurred_at,
        recorded_at=now,
        provider="sendgrid",
        provider_message_id=message,
        native=msgspec.Raw(msgspec.json.encode(native)),
        **more,
    )


_NATIVE: Final = {
    "user_agent": "useragent",
    "url": "url",
    "text": "reason",
    "bounce_type": "type",
    "enhanced": "status",
}


def _more(dice: random.Random, kind: EventKind) -> dict[str, Any]:
    if kind in (EventKind.OPENED, EventKind.CLICKED):
        found: dict[str, Any] = {"user_agent": dice.choice(_AGENTS)}
        if kind is EventKind.CLICKED:
            return found | {"url": f"https://brand.test/offer/{dice.randrange(40)}?utm_source=mail&utm_medium=news"}
        return found | {"machine": "sg_machine_open"} if dice.random() < 0.25 else found
    if kind is EventKind.BOUNCED:
        code, enhanced, text, subtype, hard = dice.choice(_REFUSALS)
        told = BounceClass.HARD if hard else BounceClass.SOFT
        words = {"code": code, "enhanced": enhanced, "text": text, "bounce_subtype": subtype, "bounce_type": "bounce"}
        return words | {"bounce_class": told}
    if kind is EventKind.DEFERRED:
        text = dice.choice(_DELAYS)
        return {"code": int(text[:3]), "enhanced": text[4:9], "text": text}
    if kind is EventKind.DELIVERED:
        return {"code": 250, "enhanced": "2.0.0", "text": "250 2.0.0 OK 1718000000 a1b2c3-20020a05640 gsmtp"}
    return {"text": "Bounced Address"} if kind is EventKind.DROPPED else {}
