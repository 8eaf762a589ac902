"""Row changes computed from changes, without a database, so that many splits of the log can be tried."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.pending_conversions import (
    PendingConversion,
    decode_conversion,
    encode_conversion,
    ended_conversions,
    new_conversions,
)
from projections.row_changes import MAX_PLACES, ClosedVersion, CurrentVersion, RowChanges, compute_row_changes
from projections.sink import ChangeBatch
from projections.suppression_rules import EvidenceKey, EvidenceOrigin, evidence_of
from tests.support.changes import T0, Log, conversion_result, event, identified, lives, request
from topics.changes import EmailChange, Tick
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind
from topics.record import EmailId
from topics.suppressions import SuppressionReason


def hashed(address: str) -> bytes:
    return address.encode()


class Tables:
    """What a database would hold, as far as steps go."""

    def __init__(self) -> None:
        self.standing: dict[EmailId, CurrentVersion] = {}
        self.closed: list[ClosedVersion] = []
        self.debts: list[PendingConversion] = []
        self.ended: dict[tuple[EmailId, ConversionWord], str] = {}
        self.facts: set[tuple[EmailId, str]] = set()
        self.evidence: dict[EvidenceKey, EvidenceOrigin] = {}
        self.through = 0

    def take(self, run: Sequence[EmailChange | Tick]) -> RowChanges:
        row_changes = compute_row_changes(run, self.standing, hashed, self.through)
        self.through = row_changes.through
        self.standing |= row_changes.standing
        self.closed += row_changes.closed
        # As the table does: a word that was read wrong and is true again is booked already.
        booked = {(debt.email_id, debt.word) for debt in self.debts}
        self.debts += [debt for debt in row_changes.debts if (debt.email_id, debt.word) not in booked]
        self.ended |= row_changes.ended
        self.facts |= set(row_changes.timeline)
        evidence = self.evidence | row_changes.evidence
        self.evidence = {key: sign for key, sign in evidence.items() if sign is not None}
        return row_changes


def taken(runs: Sequence[ChangeBatch]) -> Tables:
    tables = Tables()
    for run in runs:
        tables.take(run.changes)
    return tables


def as_rows(tables: Tables) -> tuple[object, ...]:
    closed = sorted((version.state.email_id, version.version, version) for version in tables.closed)
    return tables.standing, [row[2] for row in closed], tables.debts, tables.ended, tables.facts, tables.evidence


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 60), max_size=8))
def test_any_split_gives_the_same_rows(seed: int, cuts: list[int]) -> None:
    log = lives(seed, 12)
    inside = sorted({cut for cut in cuts if cut < len(log.changes)})
    assert as_rows(taken(log.runs(*inside))) == as_rows(taken(log.runs()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40))
def test_repeated_batch_adds_no_rows(seed: int, start: int) -> None:
    log = lives(seed, 12)
    tables = taken(log.runs())
    again = tables.take(log.changes[start:])
    assert (again.standing, again.closed, again.debts, again.ended, again.evidence) == ({}, [], [], {}, {})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 60), max_size=8))
def test_evidence_depends_on_final_states_only(seed: int, cuts: list[int]) -> None:
    log = lives(seed, 12)
    tables = taken(log.runs(*sorted({cut for cut in cuts if cut < len(log.changes)})))
    evidence: dict[EvidenceKey, EvidenceOrigin] = {}
    for now in tables.standing.values():
        evidence |= evidence_of(now.state, hashed)
    assert tables.evidence == evidence


def test_evidence_of_an_earlier_version_is_taken_back_from_under_its_own_key() -> None:
    def hashed_before(address: str) -> bytes:
        return b"old " + address.encode()

    bounced = Log().fold(request(1), event(1, EventKind.BOUNCED, T0)).changes
    standing: dict[EmailId, CurrentVersion] = {}
    for run in (bounced, Log().fold(request(1), event(1, EventKind.COMPLAINED, T0 + 1)).changes):
        row_changes = compute_row_changes(run, standing, hashed, 0, hashed_before)
        standing |= row_changes.standing
    signs = {(key.address_hash[:4], key.reason): sign is None for key, sign in row_changes.evidence.items()}
    assert signs == {
        (b"old ", SuppressionReason.HARD_BOUNCE): True,
        (hashed(request(1).recipient)[:4], SuppressionReason.COMPLAINT): False,
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_versions_follow_each_other_without_gap_or_overlap(seed: int) -> None:
    tables = taken(lives(seed, 12).runs())
    for email_id, now in tables.standing.items():
        past = sorted((v for v in tables.closed if v.state.email_id == email_id), key=lambda v: v.version)
        assert [version.version for version in past] == list(range(1, now.version))
        edges = [(version.valid_from, version.valid_to) for version in past] + [(now.valid_from, now.valid_from)]
        for (start, end), (next_start, _) in itertools.pairwise(edges):
            assert start <= end == next_start


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_each_owed_word_becomes_pending_once(seed: int) -> None:
    log = lives(seed, 12)
    tables = taken(log.runs())
    booked = [(debt.email_id, debt.word) for debt in tables.debts]
    assert len(booked) == len(set(booked))
    for email_id, now in tables.standing.items():
        assert new_conversions(now.state, {word for one, word in booked if one == email_id}) == ()


def test_clock_set_back_moves_no_version_back() -> None:
    log = Log().fold(request(1, T0 + 5000)).fold(event(1, EventKind.DELIVERED, T0))
    tables = taken(log.runs())
    assert [(version.valid_from, version.valid_to) for version in tables.closed] == [(T0 + 5000, T0 + 5000)]
    assert tables.standing[identified(1)].valid_from == T0 + 5000


def test_places_are_bounded() -> None:
    log = Log()
    for _ in range(MAX_PLACES + 50):
        log.fold(event(1, EventKind.OPENED, T0))
    [moment] = compute_row_changes(log.changes, {}, hashed).timeline.values()
    assert moment.places == [f"facts/0/{offset}" for offset in range(MAX_PLACES)]


def test_a_debt_keeps_its_activity_byte_for_byte() -> None:
    [debt] = new_conversions(Log().fold(request(1), event(1, EventKind.DELIVERED, T0)).changes[0].state, ())
    assert bytes(decode_conversion(encode_conversion(debt)).activity) == bytes(request(1).activity)
    assert debt.lane == "acme/2"


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (ConversionOutcome.DELIVERED, "done"),
        (ConversionOutcome.REFUSED, "done"),
        (ConversionOutcome.GIVEN_UP, "dead"),
        (ConversionOutcome.RETRYING, None),
    ],
)
def test_what_ends_a_debt(outcome: ConversionOutcome, end: str | None) -> None:
    state = Log().fold(request(1), conversion_result(1, ConversionWord.OPEN, outcome, T0)).changes[0].state
    assert ended_conversions(state).get(ConversionWord.OPEN) == end
