"""Build facts of emails, and logs of email-changes that the real fold makes of them."""

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pipeline.worker.fold import evolve, mark_of
from projections.sink import ChangeBatch
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import AppliedFact, EmailChange, Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind
from topics.ids import email_id
from topics.record import EmailId, LogPosition
from topics.registry import CONVERSION_RESULTS, DELIVERY_EVENTS, PROVIDER_ACKS, SEND_REQUESTS, Topic
from topics.requests import SendRequest
from topics.states import EmailState

T0 = 1_700_000_000_000


def identified(number: int, tenant: str = "acme") -> EmailId:
    """Return the id of the email with this number."""
    return email_id(tenant, "fasttrack", f"activity-{number}")


def request(number: int, at: int = T0, tenant: str = "acme", dialect: str = "fasttrack") -> SendRequest:
    return SendRequest(
        email_id=identified(number, tenant),
        message_id=identified(number, tenant),
        tenant=tenant,
        dialect=dialect,
        brand=str(number % 2 + 1),
        recipient=f"player{number}@example.com",
        identity=f"activity-{number}",
        recorded_at=at,
        activity=msgspec.Raw(b'{"id":"activity-%d","user_id":123456789012345678901234567890}' % number),
    )


def topic_of(fact: Fact) -> Topic:
    """Return the topic that a fact is appended to."""
    if isinstance(fact, SendRequest):
        return SEND_REQUESTS
    if isinstance(fact, ConversionResult):
        return CONVERSION_RESULTS
    return PROVIDER_ACKS if isinstance(fact, Acked | Deferred | Dropped | Failed | Rejected) else DELIVERY_EVENTS


def acked(number: int, at: int, tenant: str = "acme") -> Acked:
    return Acked(
        email_id=identified(number, tenant),
        event_id=f"ack:{number}",
        occurred_at=at,
        recorded_at=at + 1,
        provider="relay",
        code=250,
        provider_message_id=f"<{number}@relay>",
    )


def event(number: int, kind: EventKind, at: int, tenant: str = "acme", nth: int = 0) -> DeliveryEvent:
    bounced = kind is EventKind.BOUNCED
    return DeliveryEvent(
        email_id=identified(number, tenant),
        event_id=f"sg:{number}:{kind}:{nth}",
        kind=kind,
        occurred_at=at,
        recorded_at=at + 2,
        provider="sandbox",
        bounce_class=BounceClass.HARD if bounced else None,
        bounce_type="bounce" if bounced else "",
        text="no such user" if bounced else "",
    )


def again(read: DeliveryEvent, kind: EventKind, at: int, revision: int = 1, machine: str = "") -> DeliveryEvent:
    """Return the correction of an event that a corrected mapping would make."""
    correction = Correction(revision=revision, was=mark_of(read), at=at)
    return msgspec.structs.replace(read, kind=kind, machine=machine, bounce_class=None, corrects=correction)


def conversion_result(
    number: int, word: ConversionWord, outcome: ConversionOutcome, at: int, tenant: str = "acme"
) -> ConversionResult:
    return ConversionResult(
        email_id=identified(number, tenant),
        event_id=f"conversion:{number}:{word}:{outcome}",
        word=word,
        outcome=outcome,
        occurred_at=at,
        recorded_at=at,
        destination="https://fasttrack.example",
        attempt=1,
        status=200,
    )


def fates(number: int, at: int, chance: random.Random, tenant: str = "acme") -> list[Fact]:
    """Return the facts of one email whose outcome is chosen at random."""
    own = identified(number, tenant)
    fate = chance.choice(("delivered", "opened", "spam", "bounce", "dropped", "failed", "rejected"))
    common: dict[str, Any] = {
        "email_id": own,
        "event_id": f"{fate}:{number}",
        "occurred_at": at + 9,
        "recorded_at": at + 10,
    }
    facts: list[Fact] = [request(number, at, tenant)]
    if fate == "dropped":
        return [*facts, Dropped(reason="suppressed", **common)]
    if fate == "failed":
        return [*facts, Failed(reason="gave up", text="451 later", **common)]
    if fate == "rejected":
        return [*facts, Rejected(code=550, enhanced="5.1.1", text="no such user", **common)]
    facts.append(acked(number, at + 5, tenant))
    if fate == "bounce":
        bounced = event(number, EventKind.BOUNCED, at + 20, tenant)
        # Some events are corrected, and the correction may be folded before the event.
        return [*facts, bounced, *([again(bounced, EventKind.DEFERRED, at + 60)] if number % 3 == 0 else [])]
    facts.append(event(number, EventKind.DELIVERED, at + 20, tenant))
    facts.append(
        conversion_result(number, ConversionWord.DELIVERED, chance.choice(tuple(ConversionOutcome)), at + 25, tenant)
    )
    if fate in {"opened", "spam"}:
        facts += [event(number, EventKind.OPENED, at + 30 + nth, tenant, nth) for nth in range(chance.randint(1, 3))]
        if number % 3 == 1:
            opened = event(number, EventKind.OPENED, at + 30, tenant)
            facts.append(again(opened, EventKind.OPENED, at + 60, machine="a scanner"))
    if fate == "spam":
        facts.append(event(number, EventKind.COMPLAINED, at + 40, tenant))
    return facts


class Log:
    """The changes of one partition of email-changes, as the fold writes them."""

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self.changes: list[EmailChange] = []
        self._states: dict[str, EmailState] = {}
        self._facts = 0

    def fold(self, *facts: Fact) -> "Log":
        """Append a change for these facts of one email."""
        state = self._states.get(facts[0].email_id)
        for fact in facts:
            state = evolve(state, fact)
        assert state is not None
        self._states[state.email_id] = state
        places = [
            LogPosition(topic="facts", partition=self.partition, offset=self._facts + nth) for nth in range(len(facts))
        ]
        self._facts += len(facts)
        applied = tuple(AppliedFact(place=place, fact=fact) for place, fact in zip(places, facts, strict=True))
        recorded = max(fact.recorded_at for fact in facts)
        self.changes.append(EmailChange(email_id=state.email_id, recorded_at=recorded, facts=applied, state=state))
        return self

    def runs(self, *cuts: int) -> list[ChangeBatch]:
        """Return the log in batches, cut at these offsets."""
        edges = [0, *cuts, len(self.changes)]
        return [
            ChangeBatch(self.partition, start, end, self.changes[start:end])
            for start, end in itertools.pairwise(edges)
            if end > start or not self.changes
        ]


def in_campaign(facts: Sequence[Fact], campaign: int) -> list[Fact]:
    """Return an email's facts with a request that belongs to a campaign, to a large mailbox provider."""
    first, *others = facts
    assert isinstance(first, SendRequest)
    activity = msgspec.Raw(b'{"activity_id":%d,"action_group_id":"g%d"}' % (campaign, campaign % 2))
    recipient = first.recipient.replace("example.com", ("gmail.com", "Outlook.com", "example.com")[campaign % 3])
    return [msgspec.structs.replace(first, activity=activity, recipient=recipient), *others]


def lives(seed: int, emails: int, partition: int = 0, tenant: str = "acme", campaigns: int = 0) -> Log:
    """Return a log of many emails, interleaved, with some facts folded twice and some changes published twice."""
    chance = random.Random(seed)
    log = Log(partition)
    numbers = range(partition, 2 * emails, 2)
    waiting: list[list[Fact]] = [fates(number, T0 + number * 1000, chance, tenant) for number in numbers]
    if campaigns:
        waiting = [in_campaign(facts, number % campaigns) for number, facts in zip(numbers, waiting, strict=True)]
    while waiting:
        left = chance.choice(waiting)
        batch = [left.pop(0 if chance.random() < 0.8 else -1) for _ in range(min(len(left), chance.randint(1, 2)))]
        log.fold(*batch)
        if chance.random() < 0.2:
            log.fold(*batch)
        if chance.random() < 0.1:
            log.changes.append(chance.choice(log.changes[-5:]))
        waiting = [facts for facts in waiting if facts]
    return log


def facts_of(changes: Iterable[EmailChange]) -> Sequence[Fact]:
    """Return every fact, as often as it was applied."""
    return [applied.fact for change in changes for applied in change.facts]
