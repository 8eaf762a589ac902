"""Facts about one email, as hypothesis draws them: few ids and few times, so that they collide often."""

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
corrected = st.builds(lambda told, correction: msgspec.structs.replace(told, corrects=correction), events, _corrections)
retractions = _made(Retraction, **clocks, provider=words, corrects=_corrections)
corrections: st.SearchStrategy[Fact] = st.one_of(corrected, retractions)
facts: st.SearchStrategy[Fact] = st.one_of(requests, acks, events, conversions, corrections)


@st.composite
def flood(draw: st.DrawFn) -> list[Fact]:
    """More openings than a sketch holds, among a few other facts."""
    numbers = draw(st.lists(st.integers(0, 90), min_size=30, max_size=80))
    opened = [event(EventKind.OPENED, f"open{number}", at=number) for number in numbers]
    return opened + draw(st.lists(facts, max_size=4))


@st.composite
def flood_of_corrections(draw: st.DrawFn) -> list[Fact]:
    """More openings than a sketch holds, many of them read anew as a machine's, and some of these once more."""
    numbers = draw(st.lists(st.integers(0, 90), min_size=40, max_size=80))
    opened = [event(EventKind.OPENED, f"open{number}", at=number) for number in numbers]
    anew = [again(one, 1, EventKind.OPENED, machine="scanner") for one in opened]
    once_more = [again(one, 2, draw(st.sampled_from([EventKind.OPENED, EventKind.BOUNCED]))) for one in anew[::9]]
    return [*opened, *anew, *once_more, *draw(st.lists(facts, max_size=4))]


def _at_one_time(fact: Fact) -> Fact:
    return msgspec.structs.replace(fact, recorded_at=5)


rivals: st.SearchStrategy[list[Fact]] = st.one_of(
    st.lists(requests.map(_at_one_time), min_size=2, max_size=4),
    st.lists(
        conversions.map(lambda told: msgspec.structs.replace(told, word=ConversionWord.OPEN)), min_size=2, max_size=4
    ),
    st.lists(acks.map(_at_one_time), min_size=2, max_size=6),
    st.lists(corrections.map(lambda told: msgspec.structs.replace(told, event_id="e")), min_size=2, max_size=6),
)
"""Facts that claim the same field, so that only the join's order decides."""

histories: st.SearchStrategy[list[Fact]] = st.one_of(
    st.lists(facts, min_size=1, max_size=12), rivals, flood(), flood_of_corrections()
)


def event(kind: EventKind, event_id: str = "e", at: int = 5, **fields: Any) -> DeliveryEvent:
    """An event of the email."""
    given: dict[str, Any] = {"occurred_at": at, "recorded_at": at, "provider": "p"} | fields
    return DeliveryEvent(email_id=EMAIL_ID, event_id=event_id, kind=kind, **given)


def request(at: int) -> SendRequest:
    """What Fast Track asked for."""
    return SendRequest(
        email_id=EMAIL_ID,
        message_id="m",
        tenant="t",
        dialect="fasttrack",
        brand="1",
        recipient="a@example.test",
        recorded_at=at,
    )


def again(told: DeliveryEvent, revision: int, kind: EventKind, **fields: Any) -> DeliveryEvent:
    """The event as a corrected mapping reads it."""
    correction = Correction(revision=revision, was=mark_of(told), at=100 + revision)
    return msgspec.structs.replace(told, **({"kind": kind, "machine": ""} | fields), corrects=correction)


def folded(told: Sequence[Fact], evolve: Callable[[Any, Fact], Any]) -> Any:
    """The state after ``told``, in that order."""
    state = None
    for fact in told:
        state = evolve(state, fact)
    return state
