"""A batch of records: grouped, folded, written once per email; records that can't be used become dead letters."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pytest

from pipeline.errors import TooManyDeadLetters
from pipeline.worker import fold_batch
from pipeline.worker.agents import DeadLetterLimit, FactFolder
from pipeline.worker.fold import evolve
from pipeline.worker.fold_batch import RecordBatch, fold_facts, sort_facts
from tests.support.facts import EMAIL_ID, event
from topics import codec
from topics.changes import EmailChange
from topics.codec import NewerRecord, Undecodable, decode, encode
from topics.events import DeliveryEvent, EventKind
from topics.join import MAX_IDS_PER_MARK
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS, EMAIL_CHANGES, EMAIL_STATES, MAX_RECORD_BYTES
from topics.states import EmailState, Mark

KEY = EMAIL_ID.encode()
OPENED, CLICKED = event(EventKind.OPENED, "o"), event(EventKind.CLICKED, "c")


class Lying(NamedTuple):
    """A record as a consumer gives it."""

    offset: int
    key: bytes | None
    value: bytes | None


def lying(value: DeliveryEvent | bytes | None, offset: int = 0, key: bytes | None = KEY) -> Lying:
    return Lying(offset, key, encode(DELIVERY_EVENTS, value) if isinstance(value, DeliveryEvent) else value)


def stretch(*records: Lying) -> RecordBatch:
    return RecordBatch(DELIVERY_EVENTS, 1, records)


def fold(*records: Lying, before: bytes | None = None) -> fold_batch.FoldedBatch:
    run = stretch(*records)
    facts, dead = sort_facts(run, 9)
    assert dead == []
    return fold_facts(run, facts, {KEY: before}, 9)


def change_of(folded: fold_batch.FoldedBatch, index: int = 0) -> EmailChange:
    change: EmailChange = decode(EMAIL_CHANGES, folded.changes[index][1])
    return change


def test_facts_of_one_email_become_one_change_in_log_order() -> None:
    other = msgspec.structs.replace(OPENED, email_id=EmailId("other"))
    folded = fold(lying(OPENED, 3), lying(other, 4, b"other"), lying(CLICKED, 5))
    assert [key for key, _ in folded.changes] == [KEY, b"other"]
    change = change_of(folded)
    assert [(applied.place.offset, applied.fact) for applied in change.facts] == [(3, OPENED), (5, CLICKED)]
    assert change.state == decode(EMAIL_STATES, folded.states[KEY]) == evolve(evolve(None, OPENED), CLICKED)
    assert change.recorded_at == 9


def test_stored_state_is_folded_further() -> None:
    before = fold(lying(OPENED)).states[KEY]
    assert change_of(fold(lying(CLICKED), before=before)).state == evolve(evolve(None, OPENED), CLICKED)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_slices_give_the_same_states_and_each_fact_once(size: int) -> None:
    other = msgspec.structs.replace(OPENED, email_id=EmailId("other"))
    before = fold(lying(event(EventKind.DELIVERED, "d"))).states[KEY]
    run = stretch(
        lying(OPENED, 3),
        lying(other, 4, b"other"),
        lying(b"{}", 5),
        lying(CLICKED, 6),
        lying(OPENED, 7),
        lying(None, 8, None),
    )
    read_keys: list[bytes] = []

    def read(keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        read_keys.extend(keys)
        return {KEY: before, b"other": None}

    folded = fold_batch.fold_batch(run, read, 9, size)
    assert sorted(read_keys) == sorted([KEY, b"other"])  # once, whatever the size
    assert decode(EMAIL_STATES, folded.states[KEY]) == evolve(evolve(decode(EMAIL_STATES, before), OPENED), CLICKED)
    assert decode(EMAIL_STATES, folded.states[b"other"]) == evolve(None, other)
    changes = [change_of(folded, index) for index in range(len(folded.changes))]
    offsets = [applied.place.offset for change in changes for applied in change.facts]
    assert sorted(offsets) == [3, 4, 6, 7]
    assert [offset for offset in offsets if offset != 4] == [3, 6, 7]
    of_email = [change.state for change in changes if change.email_id == EMAIL_ID]
    assert of_email[-1] == decode(EMAIL_STATES, folded.states[KEY])
    assert [dead_letter.source.offset for dead_letter in folded.dead] == [5, 8]


def test_repeat_writes_a_change_but_no_state() -> None:
    first = fold(lying(OPENED, 1))
    again = fold(lying(OPENED, 2), before=first.states[KEY])
    assert again.states == {}
    assert change_of(again).state == change_of(first).state
    assert [applied.place.offset for applied in change_of(again).facts] == [2]


def test_change_of_encoded_parts_equals_the_encoded_change() -> None:
    strange = msgspec.structs.replace(
        CLICKED, email_id=EmailId('"quoted" \\ ü'), text="\u2028\x00 ✉", native=msgspec.Raw(b'{"n": 1.50}')
    )
    key = strange.email_id.encode()
    folded = fold(lying(OPENED, 3), lying(strange, 4, key), lying(CLICKED, 5))
    for _, value in folded.changes:
        assert encode(EMAIL_CHANGES, decode(EMAIL_CHANGES, value)) == value


def test_change_has_older_facts_in_the_newest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec.UPCASTERS, "delivery-event/0", lambda fields: fields)
    old = encode(DELIVERY_EVENTS, OPENED).replace(b"delivery-event/1", b"delivery-event/0")
    assert b"event/0" in old
    folded = fold(lying(old, 3))
    assert [applied.fact for applied in change_of(folded).facts] == [OPENED]


def test_undecodable_or_misplaced_record_becomes_a_dead_letter() -> None:
    facts, dead = sort_facts(
        stretch(lying(b"{}", 1), lying(None, 2), lying(OPENED, 3, b"another"), lying(OPENED, 4, None)), 9
    )
    assert facts == {}
    assert [(dead_letter.source.offset, dead_letter.reason, dead_letter.role) for dead_letter in dead] == [
        (1, "undecodable", "fold"),
        (2, "undecodable", "fold"),
        (3, "misplaced", "fold"),
        (4, "misplaced", "fold"),
    ]


def test_fact_of_a_newer_version_halts_the_fold_with_its_place() -> None:
    newer = encode(DELIVERY_EVENTS, OPENED).replace(b"delivery-event/1", b"delivery-event/2")
    with pytest.raises(NewerRecord, match=r"^delivery-events/\d/7: delivery-event/2 is newer"):
        fold(lying(OPENED, 6), lying(newer, 7))


def test_state_of_a_newer_version_halts_the_fold() -> None:
    newer = encode(EMAIL_STATES, evolve(None, OPENED)).replace(b"email-state/1", b"email-state/2")
    with pytest.raises(NewerRecord, match="email-state/2"):
        fold(lying(CLICKED), before=newer)


def test_facts_too_large_together_get_a_change_each(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = len(fold(lying(OPENED), lying(CLICKED)).changes[0][1]) - 1
    monkeypatch.setattr(fold_batch, "MAX_RECORD_BYTES", alone)
    folded = fold(lying(OPENED, 1), lying(CLICKED, 2))
    assert [[applied.place.offset for applied in change_of(folded, index).facts] for index in (0, 1)] == [[1], [2]]
    assert decode(EMAIL_STATES, folded.states[KEY]) == evolve(evolve(None, OPENED), CLICKED)


def test_too_large_fact_becomes_a_dead_letter_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = msgspec.structs.replace(CLICKED, native=msgspec.Raw(b'"' + b"x" * 2000 + b'"'))
    monkeypatch.setattr(fold_batch, "MAX_RECORD_BYTES", 1500)
    folded = fold(lying(OPENED, 1), lying(huge, 2))
    assert [(dead_letter.source.offset, dead_letter.reason) for dead_letter in folded.dead] == [(2, "too-large")]
    assert decode(EMAIL_STATES, folded.states[KEY]) == evolve(None, OPENED)
    assert len(folded.changes) == 1


def test_unbounded_older_state_is_bounded_with_the_next_fact() -> None:
    ids = tuple(range(10**18, 10**18 + 45_100))
    stored = encode(EMAIL_STATES, EmailState(email_id=EMAIL_ID, delayed=Mark(first=1, last=2, recorded=1, ids=ids)))
    assert len(stored) > MAX_RECORD_BYTES
    for fact in (OPENED, event(EventKind.DEFERRED, "late", at=1)):
        folded = fold(lying(fact), before=stored)
        assert folded.dead == []
        delayed = decode(EMAIL_STATES, folded.states[KEY]).delayed
        assert (delayed.first, delayed.last, len(delayed.ids)) == (1, 2, MAX_IDS_PER_MARK)
        assert len(folded.changes[0][1]) < 5_000


def test_facts_too_large_do_not_halt_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_batch, "MAX_RECORD_BYTES", 600)
    huge = [lying(msgspec.structs.replace(CLICKED, text="x" * 1_000), number) for number in range(500)]
    step = FactFolder(lambda: 9)(stretch(*huge), dict.fromkeys)
    assert len(step.others) == 500


def test_writer_faults_halt_the_fold() -> None:
    for spoilt in (lying(b"{}"), lying(OPENED, key=b"another")):
        with pytest.raises(TooManyDeadLetters):
            FactFolder(lambda: 9)(stretch(*[spoilt] * 300), dict.fromkeys)


def test_undecodable_stored_state_raises() -> None:
    with pytest.raises(Undecodable):
        fold(lying(OPENED), before=b"rubbish")


@pytest.mark.parametrize(
    ("counts", "stops"),
    [
        ([(0, 199)], False),
        ([(0, 200)], True),
        ([(100, 100)], False),
        ([(100, 101)], True),
        ([(1000, 0), (0, 400)], False),
        ([(1000, 0), (0, 400), (0, 101)], True),
    ],
)
def test_the_worker_halts_when_most_of_the_last_records_are_dead(counts: list[tuple[int, int]], stops: bool) -> None:
    limit = DeadLetterLimit()
    for good, dead in counts[:-1]:
        limit.count(good, dead)
    if stops:
        with pytest.raises(TooManyDeadLetters, match="can't be understood"):
            limit.count(*counts[-1])
    else:
        limit.count(*counts[-1])
