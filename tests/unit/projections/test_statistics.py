"""The rollup's cells are the sums over the emails, however the changes come."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections import statistics, statistics_rows
from projections.metric_definitions import COUNTERS, TIME_METRICS
from projections.row_changes import CurrentVersion, compute_row_changes
from projections.statistics import (
    NUMBERS,
    OTHER,
    CampaignBook,
    CampaignPeriod,
    CountedState,
    StatisticsCampaign,
    StatisticsCell,
    StatisticsGroup,
    compute_statistics,
    contribution,
    is_block,
)
from tests.support.changes import T0, Log, acked, again, conversion_result, event, identified, lives, request
from tests.support.recounting import QUARTER_MS, Counts, recount
from topics.changes import EmailChange, Tick
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind
from topics.record import EmailId
from topics.states import EventDetail


class Rollup:
    """What a database would hold."""

    def __init__(self, most: int = statistics.MAX_CAMPAIGNS) -> None:
        self.versions: dict[EmailId, CurrentVersion] = {}
        self.counted: dict[EmailId, CountedState] = {}
        self.cells: defaultdict[StatisticsCell, list[int]] = defaultdict(lambda: [0] * len(NUMBERS))
        self.groups: dict[int, StatisticsGroup] = {}
        self.campaigns: defaultdict[CampaignPeriod, list[StatisticsCampaign]] = defaultdict(list)
        self.through, self._most = 0, most

    def take(self, batch: Sequence[EmailChange | Tick]) -> None:
        rows = compute_row_changes(batch, self.versions, str.encode, self.through)
        self.through = rows.through
        after = [(email_id, version.state) for email_id, version in rows.standing.items()]
        moved = compute_statistics(batch, after, self.counted, CampaignBook(self.campaigns, self._most))
        self.versions |= rows.standing
        for email_id, state in after:
            self.counted[email_id] = CountedState(moved.group_ids[email_id], state)
        self.groups |= moved.groups
        for period, campaigns in moved.campaigns.items():
            self.campaigns[period] += campaigns
        for cell, numbers in moved.cells.items():
            self.cells[cell] = [a + b for a, b in zip(self.cells[cell], numbers, strict=True)]

    @property
    def rows(self) -> dict[tuple[StatisticsCell, StatisticsGroup], dict[str, int]]:
        """The cells that are not empty, with what their groups have in common."""
        return {
            (cell, self.groups[cell.group_id]): {
                name: number for name, number in zip(NUMBERS, numbers, strict=True) if number
            }
            for cell, numbers in self.cells.items()
            if any(numbers)
        }

    def counts(self) -> Counts:
        sums: Counter[tuple[bool, int, str]] = Counter()
        for (cell, _), numbers in self.rows.items():
            for name, number in numbers.items():
                sums[cell.by_event, cell.slot, name] += number
        return dict(sums)


def rolled(log: Log, *cuts: int, most: int = statistics.MAX_CAMPAIGNS) -> Rollup:
    rollup = Rollup(most)
    for run in log.runs(*cuts):
        rollup.take(run.changes)
    return rollup


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 60), max_size=8))
def test_cells_are_the_sums_over_the_emails(seed: int, cuts: list[int]) -> None:
    log = lives(seed, 12, campaigns=3)
    rollup = rolled(log, *sorted({cut for cut in cuts if cut < len(log.changes)}))
    assert rollup.counts() == recount([version.state for version in rollup.versions.values()])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 60), max_size=8), st.integers(1, 4))
def test_any_split_gives_the_same_cells_also_where_campaigns_are_folded(seed: int, cuts: list[int], most: int) -> None:
    log = lives(seed, 12, campaigns=6)
    inside = sorted({cut for cut in cuts if cut < len(log.changes)})
    split, whole = rolled(log, *inside, most=most), rolled(log, most=most)
    assert split.rows == whole.rows
    assert split.campaigns == whole.campaigns


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40))
def test_repeated_batch_moves_nothing(seed: int, start: int) -> None:
    log = lives(seed, 12)
    rollup = rolled(log)
    before = rollup.rows
    rollup.take(log.changes[start:])
    assert rollup.rows == before


def test_correction_moves_figures() -> None:
    bounced = event(1, EventKind.BOUNCED, T0 + 50)
    rollup = rolled(Log().fold(request(1)).fold(acked(1, T0 + 10)).fold(bounced))
    assert {"bounced_hard", "attempted"} <= {name for _, _, name in rollup.counts()}
    rollup.take(Log().fold(request(1), again(bounced, EventKind.DELIVERED, T0 + 90)).changes)
    names = {name for _, _, name in rollup.counts()}
    assert "bounced_hard" not in names
    assert "delivered" in names


def test_facts_before_their_request_are_counted_when_it_comes() -> None:
    rollup = rolled(Log().fold(event(1, EventKind.DELIVERED, T0 + 900_000)))
    assert rollup.counts() == {}
    rollup.take(Log().fold(request(1)).changes)
    counts = rollup.counts()
    assert counts[False, T0 // QUARTER_MS, "delivered"] == 1
    assert counts[True, (T0 + 900_000) // QUARTER_MS, "delivered"] == 1


def test_row_that_an_older_version_changed_is_made_up_for() -> None:
    """An older projector writes a row and counts nothing: the state that was counted last is taken out."""
    log = Log().fold(request(1)).fold(acked(1, T0 + 10)).fold(event(1, EventKind.DELIVERED, T0 + 50))
    rollup = Rollup()
    rollup.take(log.changes[:1])
    older = log.changes[1].state
    rollup.versions[identified(1)] = CurrentVersion(2, T0 + 10, older)
    rollup.take(log.changes[2:])
    assert rollup.counts() == recount([log.changes[2].state])


def test_campaigns_over_the_bound_are_counted_as_other_and_their_brand_is_kept() -> None:
    numbers = range(0, 10)
    log = Log()
    for number in numbers:
        activity = msgspec.Raw(b'{"activity_id":%d}' % number)
        log.fold(msgspec.structs.replace(request(number), activity=activity))
    groups = [group for _, group in rolled(log, most=3).rows]
    assert {(group.brand, group.activity_id) for group in groups} == {
        *(("1", "0"), ("2", "1"), ("1", "2")),
        *(("1", OTHER), ("2", OTHER)),
    }
    assert {group.action_group_id for group in groups} == {""}, "an email without one has none, folded or not"


def test_brand_over_the_bound_is_other() -> None:
    log = Log()
    for number in range(4):
        log.fold(msgspec.structs.replace(request(number), brand=f"b{number}"))
    assert {group.brand for _, group in rolled(log, most=2).rows} == {"b0", "b1", OTHER}


def test_clock_behind_ours_puts_no_fact_before_the_acceptance() -> None:
    early = event(1, EventKind.DELIVERED, T0 - 5_000_000)
    counts = rolled(Log().fold(request(1), early)).counts()
    assert counts[True, T0 // QUARTER_MS, "delivered"] == 1
    assert counts[True, T0 // QUARTER_MS, "time_to_deliver/0"] == 1


@pytest.mark.parametrize(
    ("kind", "enhanced", "expected"),
    [("blocked", "", True), ("", "5.7.1", True), ("", "4.2.2", False), ("", "", False)],
)
def test_block_is_told_by_the_providers_word_or_the_enhanced_code(kind: str, enhanced: str, expected: bool) -> None:
    assert is_block(EventDetail(at=0, recorded=0, event_id="e", type=kind, enhanced=enhanced)) is expected


def test_conversions_are_counted_per_word_at_their_own_time() -> None:
    log = Log().fold(
        request(1),
        event(1, EventKind.DELIVERED, T0 + 10),
        event(1, EventKind.OPENED, T0 + QUARTER_MS),
        conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0 + 20),
    )
    counts = rolled(log).counts()
    slot = T0 // QUARTER_MS
    assert [counts[True, slot + nth, "conversions_owed"] for nth in (0, 1)] == [1, 1]
    assert counts[False, slot, "conversions_told"] == 1


def test_other_dialects_owe_no_conversions() -> None:
    log = Log().fold(request(1, dialect="freshmail"), event(1, EventKind.DELIVERED, T0 + 10))
    assert not [name for _, _, name in rolled(log).counts() if name.startswith("conversions")]


def test_group_number_is_the_same_in_every_database() -> None:
    group = StatisticsGroup("acme", "1", "fasttrack", "", "gmail.com", "7", "9")
    assert group.group_id == StatisticsGroup("acme", "1", "fasttrack", "", "gmail.com", "7", "9").group_id
    assert group.group_id == 4_173_879_010_675_391_455
    shifted = StatisticsGroup("acme", "1", "fasttrack", "", "gmail.com", "79", "")
    assert shifted.group_id != group.group_id


def test_statements_have_every_number_of_the_definitions() -> None:
    """The columns stand in SQL once more: a counter that is missing there would not be counted."""
    insert, emptied = statistics_rows.SQL["add_statistics"], statistics_rows.SQL["remove_empty_statistics"]
    migration = (Path(statistics.__file__).parent / "migrations" / "020_projections_statistics.sql").read_text()
    for name in COUNTERS:
        assert f"{name} = s.{name} + excluded.{name}" in insert
        assert f"s.{name}" in emptied
        assert f"    {name} integer not null" in migration
    for name in TIME_METRICS:
        assert f"{name} = add_counts(s.{name}, excluded.{name})" in insert


def test_contribution_needs_the_request() -> None:
    assert contribution(Log().fold(acked(1, T0)).changes[0].state) is None
