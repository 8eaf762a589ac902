"""Hypothesis strategies for facts about one email, with few ids and few times, so that facts conflict often."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from pipeline.worker.fold import mark_of
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import BounceClass, Correction, DeliveryEvent, EventKind, Retraction
from topics.record import EmailId
from topics.requests import SendRequest

EMAIL_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")

ids = st.sampled_from([f"e{number}" for number in range(6)])
times = st.integers(min_value=0, max_value=8)
words = st.sampled_from(["", "a", "5.1.1", "é\x01"])
clocks = {"event_id": ids, "occurred_at": times, "recorded_at": times}


def _made(record: type[Any], /, **fields: Any) -> st.SearchStrategy[Any]:
    return st.builds(record, email_id=st.just(EMAIL_ID), **fields)


requests = _made(
    SendRequest,
    message_id=words,
    tenant=st.just("t"),
    dialect=st.just("fasttrack"),
    brand=words,
    recipient=st.just("a@example.test"),
    recorded_at=times,
    activity=st.sampled_from([msgspec.Raw(b'{"id": "x"}'), msgspec.Raw(b'{"id":"x"}')]),
)
_answers = {"provider": words, "code": st.sampled_from([0, 250, 550, 552]), "enhanced": words, "text": words}
acks = st.one_of(
    _made(Acked, **clocks, **_answers, provider_message_id=words, means_delivered=st.booleans()),
    _made(Deferred, **clocks, **_answers, next_attempt_at=times),
    _made(Rejected, **clocks, **_answers),
    _made(Dropped, **clocks, **_answers, reason=words),
    _made(Failed, **clocks, **_answers, reason=words),
)
events = _made(
    DeliveryEvent,
    **clocks,
    **_answers,
    kind=st.sampled_from(EventKind),
    machine=words,
    bounce_class=st.none() | st.sampled_from(BounceClass),
    bounce_type=words,
    provider_message_id=words,
)
conversions = _made(
    ConversionResult,
    **clocks,
    word=st.sampled_from(ConversionWord),
    outcome=st.sampled_from(ConversionOutcome),
    destination=words,
    attempt=times,
)
_corrections = st.builds(
    Correction,
    revision=st.integers(1, 3),
    was=st.sampled_from(["", "opened", "opened_machine", "bounced", "delivered"]),
    at=times,
)
corrected = st.builds(lambda fact, correction: msgspec.structs.replace(fact, corrects=correction), events, _corrections)
retractions = _made(Retraction, **clocks, provider=words, corrects=_corrections)
corrections: st.SearchStrategy[Fact] = st.one_of(corrected, retractions)
facts: st.SearchStrategy[Fact] = st.one_of(requests, acks, events, conversions, corrections)


@st.composite
def flood(draw: st.DrawFn) -> list[Fact]:
    """Draw more openings than a sketch holds, and a few other facts."""
    numbers = draw(st.lists(st.integers(0, 90), min_size=30, max_size=80))
    opened = [event(EventKind.OPENED, f"open{number}", at=number) for number in numbers]
    return opened + draw(st.lists(facts, max_size=4))


@st.composite
def flood_of_corrections(draw: st.DrawFn) -> list[Fact]:
    """Draw more openings than a sketch holds, corrections of all to a machine's, and second corrections of some."""
    numbers = draw(st.lists(st.integers(0, 90), min_size=40, max_size=80))
    opened = [event(EventKind.OPENED, f"open{number}", at=number) for number in numbers]
    first = [again(fact, 1, EventKind.OPENED, machine="scanner") for fact in opened]
    second = [again(fact, 2, draw(st.sampled_from([EventKind.OPENED, EventKind.BOUNCED]))) for fact in first[::9]]
    return [*opened, *first, *second, *draw(st.lists(facts, max_size=4))]


def _at_one_time(fact: Fact) -> Fact:
    return msgspec.structs.replace(fact, recorded_at=5)


rivals: st.SearchStrategy[list[Fact]] = st.one_of(
    st.lists(requests.map(_at_one_time), min_size=2, max_size=4),
    st.lists(
        conversions.map(lambda fact: msgspec.structs.replace(fact, word=ConversionWord.OPEN)), min_size=2, max_size=4
    ),
    st.lists(acks.map(_at_one_time), min_size=2, max_size=6),
    st.lists(corrections.map(lambda fact: msgspec.structs.replace(fact, event_id="e")), min_size=2, max_size=6),
)
"""Facts for the same field of a state, between which only the order of the join decides."""

histories: st.SearchStrategy[list[Fact]] = st.one_of(
    st.lists(facts, min_size=1, max_size=12), rivals, flood(), flood_of_corrections()
)


def event(kind: EventKind, event_id: str = "e", at: int = 5, **fields: Any) -> DeliveryEvent:
    """Return an event of the email."""
    values: dict[str, Any] = {"occurred_at": at, "recorded_at": at, "provider": "p"} | fields
    return DeliveryEvent(email_id=EMAIL_ID, event_id=event_id, kind=kind, **values)


def request(at: int) -> SendRequest:
    """Return the email's send request."""
    return SendRequest(
        email_id=EMAIL_ID,
        message_id="m",
        tenant="t",
        dialect="fasttrack",
        brand="1",
        recipient="a@example.test",
        recorded_at=at,
    )


def again(fact: DeliveryEvent, revision: int, kind: EventKind, **fields: Any) -> DeliveryEvent:
    """Return the correction of an event that a corrected mapping would make."""
    correction = Correction(revision=revision, was=mark_of(fact), at=100 + revision)
    return msgspec.structs.replace(fact, **({"kind": kind, "machine": ""} | fields), corrects=correction)


def folded(history: Sequence[Fact], evolve: Callable[[Any, Fact], Any]) -> Any:
    """Return the state after these facts, in this order."""
    state = None
    for fact in history:
        state = evolve(state, fact)
    return state
