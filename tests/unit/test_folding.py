"""A run of records: grouped, folded, written once per email; what can't be used stands aside."""

import msgspec
import pytest

from pipeline import folding
from pipeline.errors import TooManyDead
from pipeline.fold import evolve
from pipeline.folding import Found, fold_run, sort
from pipeline.steps import Limit
from tests.support.facts import EMAIL_ID, event
from topics.changes import EmailChange
from topics.codec import Undecodable, decode, encode
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId, Place
from topics.registry import DELIVERY_EVENTS, EMAIL_CHANGES, EMAIL_STATES

KEY = EMAIL_ID.encode()
OPENED, CLICKED = event(EventKind.OPENED, "o"), event(EventKind.CLICKED, "c")


def found(value: DeliveryEvent | bytes | None, offset: int = 0, key: bytes | None = KEY) -> Found:
    place = Place(topic="delivery-events", partition=1, offset=offset)
    return Found(
        DELIVERY_EVENTS, place, key, encode(DELIVERY_EVENTS, value) if isinstance(value, DeliveryEvent) else value
    )


def fold(*run: Found, before: bytes | None = None) -> folding.Folded:
    facts, dead = sort(list(run), 9)
    assert dead == []
    return fold_run(facts, {KEY: before}, 9)


def change_of(folded: folding.Folded, index: int = 0) -> EmailChange:
    change: EmailChange = decode(EMAIL_CHANGES, folded.changes[index][1])
    return change


def test_an_emails_facts_become_one_change_in_the_order_of_the_log() -> None:
    other = msgspec.structs.replace(OPENED, email_id=EmailId("other"))
    folded = fold(found(OPENED, 3), found(other, 4, b"other"), found(CLICKED, 5))
    assert [key for key, _ in folded.changes] == [KEY, b"other"]
    change = change_of(folded)
    assert [(applied.place.offset, applied.fact) for applied in change.facts] == [(3, OPENED), (5, CLICKED)]
    assert change.state == decode(EMAIL_STATES, folded.states[KEY]) == evolve(evolve(None, OPENED), CLICKED)
    assert change.recorded_at == 9


def test_the_state_before_is_folded_on() -> None:
    before = fold(found(OPENED)).states[KEY]
    assert change_of(fold(found(CLICKED), before=before)).state == evolve(evolve(None, OPENED), CLICKED)


def test_a_repeat_is_written_again_because_a_crash_may_have_cut_the_first_write_in_half() -> None:
    first = fold(found(OPENED))
    again = fold(found(OPENED), before=first.states[KEY])
    assert again.states == first.states
    assert change_of(again).state == change_of(first).state


def test_what_is_no_fact_or_lies_under_another_key_is_dead() -> None:
    facts, dead = sort([found(b"{}", 1), found(None, 2), found(OPENED, 3, b"another"), found(OPENED, 4, None)], 9)
    assert facts == {}
    assert [(letter.source.offset, letter.reason, letter.role) for letter in dead] == [
        (1, "undecodable", "fold"),
        (2, "undecodable", "fold"),
        (3, "misplaced", "fold"),
        (4, "misplaced", "fold"),
    ]


def test_facts_too_large_together_get_a_change_each(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = len(fold(found(OPENED), found(CLICKED)).changes[0][1]) - 1
    monkeypatch.setattr(folding, "MAX_RECORD_BYTES", alone)
    folded = fold(found(OPENED, 1), found(CLICKED, 2))
    assert [[applied.place.offset for applied in change_of(folded, index).facts] for index in (0, 1)] == [[1], [2]]
    assert decode(EMAIL_STATES, folded.states[KEY]) == evolve(evolve(None, OPENED), CLICKED)


def test_a_fact_too_large_for_any_change_is_dead_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = msgspec.structs.replace(CLICKED, native=msgspec.Raw(b'"' + b"x" * 2000 + b'"'))
    monkeypatch.setattr(folding, "MAX_RECORD_BYTES", 1500)
    folded = fold(found(OPENED, 1), found(huge, 2))
    assert [(letter.source.offset, letter.reason) for letter in folded.dead] == [(2, "too-large")]
    assert decode(EMAIL_STATES, folded.states[KEY]) == evolve(None, OPENED)
    assert len(folded.changes) == 1


def test_a_stored_state_that_cannot_be_read_stops_the_fold() -> None:
    with pytest.raises(Undecodable):
        fold(found(OPENED), before=b"rubbish")


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
    limit = Limit()
    for good, dead in counts[:-1]:
        limit.count(good, dead)
    if stops:
        with pytest.raises(TooManyDead, match="can't be understood"):
            limit.count(*counts[-1])
    else:
        limit.count(*counts[-1])
