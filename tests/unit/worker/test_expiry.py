"""What is quiet; and that no row shows which states left the fold's table, whenever they left."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.worker.expiry import StateExpiry, is_expired
from pipeline.worker.fold import evolve, mark_of
from pipeline.worker.fold_batch import RecordBatch, fold_facts, sort_facts
from projections import row_changes
from projections.row_changes import CurrentVersion, RowChanges, compute_row_changes
from tests.support.changes import topic_of
from tests.support.facts import EMAIL_ID, event, folded, histories, request
from topics.acks import Acked, Deferred
from topics.changes import EmailChange, Fact
from topics.codec import decode, encode
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import Correction, DeliveryEvent, EventKind
from topics.join import merge
from topics.readings import last_activity_at
from topics.record import EmailId
from topics.registry import (
    DAY_MS,
    EMAIL_CHANGES,
    EMAIL_STATES,
    Topic,
)
from topics.requests import SendRequest
from topics.states import EmailState

OTHER = EmailId("0190a1b2-c3d4-7e5f-8a9b-ffffffffffff")
NOW = 1_750_000_000_000


# ── Whatever leaves the table, whenever: the rows are the same ──────────────────────────────────────


class Lying(NamedTuple):
    """A record as a consumer gives it."""

    offset: int
    key: bytes
    value: bytes


class Table:
    """The fold's states as a worker keeps them, and the changes that it tells."""

    def __init__(self) -> None:
        self.changes: list[EmailChange] = []
        self._states: dict[bytes, bytes] = {}
        self._offset = 0

    def fold(self, history: Sequence[Fact]) -> None:
        """Fold a batch: consecutive facts of one topic are a run."""
        for topic, some in itertools.groupby(history, topic_of):
            run = RecordBatch(topic, 0, [self._lying(topic, fact) for fact in some])
            facts, dead = sort_facts(run, NOW)
            assert dead == []
            folded = fold_facts(run, facts, self._states, NOW + self._offset)
            self._states |= folded.states
            self.changes += [decode(EMAIL_CHANGES, value) for _, value in folded.changes]

    def forget(self, email_ids: set[EmailId]) -> None:
        for email_id in email_ids:
            self._states.pop(email_id.encode(), None)

    def _lying(self, topic: Topic, fact: Fact) -> Lying:
        self._offset += 1
        return Lying(self._offset, fact.email_id.encode(), encode(topic, fact))


def hashed(address: str) -> bytes:
    return address.encode()


def projected(changes: Sequence[EmailChange], cuts: Sequence[int]) -> list[RowChanges]:
    """All that is written to the tables, run by run."""
    standing: dict[EmailId, CurrentVersion] = {}
    applied: list[RowChanges] = []
    for start, end in itertools.pairwise([0, *cuts, len(changes)]):
        applied.append(compute_row_changes(changes[start:end], standing, hashed, applied[-1].through if applied else 0))
        standing |= applied[-1].standing
    return applied


@st.composite
def lives(draw: st.DrawFn) -> list[Fact]:
    """The facts of one or two emails, each of one dialect, interleaved."""
    history = draw(histories)
    dialects = {email_id: draw(st.sampled_from(["fasttrack", "extrahorizon"])) for email_id in (EMAIL_ID, OTHER)}
    whose = draw(st.lists(st.sampled_from([EMAIL_ID, EMAIL_ID, OTHER]), min_size=len(history), max_size=len(history)))
    moved = [msgspec.structs.replace(fact, email_id=owner) for fact, owner in zip(history, whose, strict=True)]
    return [
        msgspec.structs.replace(fact, dialect=dialects[fact.email_id]) if isinstance(fact, SendRequest) else fact
        for fact in moved
    ]


def no_row_shows_what_was_forgotten(data: st.DataObject) -> None:
    history = data.draw(lives())
    history += data.draw(st.lists(st.sampled_from(history), max_size=3))
    inside = st.sets(st.integers(1, max(1, len(history) - 1)), max_size=6)
    complete, expiring = Table(), Table()
    for start, end in itertools.pairwise([0, *sorted(data.draw(inside)), len(history)]):
        complete.fold(history[start:end])
        expiring.fold(history[start:end])
        expiring.forget(data.draw(st.sets(st.sampled_from([EMAIL_ID, OTHER]))))
    cuts = [cut for cut in sorted(data.draw(inside)) if cut < len(complete.changes)]
    assert projected(expiring.changes, cuts) == projected(complete.changes, cuts)


def test_rows_do_not_depend_on_expired_states() -> None:
    settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))(
        given(st.data())(no_row_shows_what_was_forgotten)
    )()


def the_newer_alone(_: EmailState, after: EmailState) -> EmailState:
    """As if the state of a change were the whole state."""
    return after


def all_but(name: str) -> Callable[[EmailState, EmailState], EmailState]:
    """A join that forgets one field of the state before."""
    return lambda before, after: msgspec.structs.replace(merge(before, after), **{name: getattr(after, name)})


@pytest.mark.parametrize(
    "broken",
    [the_newer_alone, *(all_but(name) for name in ("request", "settled", "delivered", "bounce", "corrected"))],
    ids=["the whole", "request", "settled", "delivered", "bounce", "corrected"],
)
def test_projection_without_join_fails_the_expiry_property(
    broken: Callable[[EmailState, EmailState], EmailState], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_changes, "merge", broken)
    search = settings(
        max_examples=3000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        search(given(st.data())(no_row_shows_what_was_forgotten))()


# ── What is quiet ───────────────────────────────────────────────────────────────────────────────────

REQUEST = request(NOW)
ACKED = Acked(email_id=EMAIL_ID, event_id="ack", occurred_at=NOW + 1, recorded_at=NOW + 1, provider="p")
DELIVERED = event(EventKind.DELIVERED, "d", NOW + 2)
OPENED = event(EventKind.OPENED, "o", NOW + 2)
LATER = NOW + 10


def conversion_result(
    word: ConversionWord, outcome: ConversionOutcome = ConversionOutcome.DELIVERED, at: int = NOW + 3
) -> ConversionResult:
    return ConversionResult(
        email_id=EMAIL_ID,
        event_id=f"c{word}",
        word=word,
        outcome=outcome,
        destination="d",
        attempt=1,
        occurred_at=at,
        recorded_at=at,
    )


def reread(original: DeliveryEvent, at: int) -> DeliveryEvent:
    """As an event of no meaning."""
    correction = Correction(revision=1, was=mark_of(original), at=at)
    return msgspec.structs.replace(original, kind=EventKind.UNKNOWN, corrects=correction)


def state_of(*facts: Fact) -> EmailState:
    state: EmailState = folded(facts, evolve)
    return state


def quiet(*facts: Fact, since: int = LATER) -> bool:
    return is_expired(state_of(*facts), since, log_start=NOW)


def test_finished_email_expires_after_the_quiet_time() -> None:
    story = (REQUEST, ACKED, DELIVERED, conversion_result(ConversionWord.DELIVERED))
    assert [quiet(*story, since=since) for since in (NOW + 3, NOW + 4)] == [False, True]


@pytest.mark.parametrize(
    "news",
    [
        event(EventKind.OPENED, "again", LATER),
        event(EventKind.OPENED, "o", LATER, machine="a scanner"),
        event(EventKind.UNSUBSCRIBED, "u", LATER),
        event(EventKind.UNKNOWN, "?", LATER),
        conversion_result(ConversionWord.CLICK, at=LATER),
        reread(OPENED, LATER),
    ],
    ids=["the same once more", "a machine's", "unsubscribed", "unknown", "a conversion", "a correction"],
)
def test_any_fact_is_activity(news: Fact) -> None:
    story = (REQUEST, ACKED, OPENED, conversion_result(ConversionWord.OPEN), news)
    assert [quiet(*story, since=since) for since in (LATER, LATER + 1)] == [False, True]


def test_email_awaiting_dispatch_does_not_expire() -> None:
    deferred = Deferred(
        email_id=EMAIL_ID, event_id="try", occurred_at=NOW, recorded_at=NOW, provider="p", next_attempt_at=NOW
    )
    assert not quiet(REQUEST)
    assert not quiet(REQUEST, deferred)
    assert not quiet(REQUEST, event(EventKind.UNSUBSCRIBED, "u", NOW))
    assert quiet(REQUEST, deferred, ACKED)
    assert quiet(REQUEST, event(EventKind.DEFERRED, "later", NOW), ACKED)
    assert quiet(deferred), "nobody waits for dispatch of what nobody asked for"


def test_email_with_pending_conversion_does_not_expire() -> None:
    assert not quiet(REQUEST, ACKED, DELIVERED)
    assert not quiet(REQUEST, ACKED, DELIVERED, OPENED, conversion_result(ConversionWord.DELIVERED))
    assert not quiet(REQUEST, ACKED, DELIVERED, conversion_result(ConversionWord.DELIVERED, ConversionOutcome.RETRYING))
    assert quiet(
        REQUEST,
        ACKED,
        DELIVERED,
        OPENED,
        conversion_result(ConversionWord.DELIVERED),
        conversion_result(ConversionWord.OPEN, ConversionOutcome.REFUSED),
    )
    assert quiet(REQUEST, ACKED, DELIVERED, conversion_result(ConversionWord.DELIVERED, ConversionOutcome.GIVEN_UP))


def test_other_dialects_and_unknown_requests_owe_no_conversion() -> None:
    assert quiet(msgspec.structs.replace(REQUEST, dialect="freshmail"), ACKED, DELIVERED)
    assert quiet(DELIVERED, event(EventKind.COMPLAINED, "c", NOW))


def test_corrected_word_is_no_longer_owed() -> None:
    assert quiet(REQUEST, ACKED, OPENED, reread(OPENED, NOW))


@pytest.mark.parametrize("left", [(REQUEST,), (REQUEST, ACKED, DELIVERED)], ids=["to dispatch", "to tell"])
def test_state_older_than_the_log_expires_with_work_left(left: tuple[Fact, ...]) -> None:
    state = state_of(*left)
    last = last_activity_at(state)
    assert [is_expired(state, LATER, log_begins) for log_begins in (last, last + 1)] == [False, True]
    assert not is_expired(state, active_since=last, log_start=last + 1), (
        "who wants to remember for longer than the log may"
    )


def test_empty_state_is_expired() -> None:
    assert is_expired(EmailState(email_id=EMAIL_ID), LATER, 0)


# ── Among stored states ─────────────────────────────────────────────────────────────────────────────


def test_expired_states_are_found_by_our_clock() -> None:
    old, young = (state_of(event(EventKind.OPENED, "o", at)) for at in (NOW - 3 * DAY_MS, NOW - DAY_MS))
    stored = [(b"old", encode(EMAIL_STATES, old)), (b"young", encode(EMAIL_STATES, young))]
    assert StateExpiry(lambda: NOW, 2)(stored) == [b"old"]
    assert StateExpiry(lambda: NOW, 0.5)(stored) == [b"old", b"young"]


def test_pending_conversion_keeps_its_state_as_long_as_the_log() -> None:
    retention_ms = EMAIL_CHANGES.retention_ms
    debts = {
        name: encode(EMAIL_STATES, state_of(msgspec.structs.replace(REQUEST, recorded_at=NOW - retention_ms + age)))
        for name, age in ((b"on the log", 0), (b"expired", -1))
    }
    assert StateExpiry(lambda: NOW, 2)(list(debts.items())) == [b"expired"]


def test_undecodable_state_does_not_expire() -> None:
    """A newer version's, or our own bug: the fold halts at it, when a fact meets it."""
    assert StateExpiry(lambda: NOW, 1)([(b"k", b"rubbish")]) == []
    newer = encode(EMAIL_STATES, state_of(REQUEST)).replace(b"email-state/1", b"email-state/2")
    assert StateExpiry(lambda: NOW, 1)([(b"k", newer)]) == []
