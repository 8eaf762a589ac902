"""Reads and writes the rollups' tables in the sink's transaction, and the backfill's."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import psycopg

from projections.metric_definitions import COUNTERS, TIME_BUCKETS, TIME_METRICS
from projections.row_changes import CurrentVersion
from projections.sql import SqlQueries, by_column
from projections.statistics import (
    CampaignBook,
    CampaignPeriod,
    CountedState,
    StatisticsCampaign,
    StatisticsCell,
    StatisticsChanges,
    StatisticsGroup,
    campaign_period,
    first_requests,
)
from topics.changes import EmailChange, Tick
from topics.codec import decode
from topics.record import EmailId
from topics.registry import EMAIL_STATES

SQL: Final = SqlQueries(Path(__file__).with_name("statistics.sql"))
Connection = psycopg.AsyncConnection[Any]
_KEY: Final = (*StatisticsCell._fields, "partition")


class PartitionBatch(Protocol):
    """Changes of one partition, as the sink has them."""

    @property
    def partition(self) -> int:
        """Return the partition's number."""
        ...

    @property
    def changes(self) -> Sequence[EmailChange | Tick]:
        """Return the changes in the order of the log."""
        ...


def counted_state(
    current: CurrentVersion, group_id: int | None, counted_version: int, older_state: bytes | None
) -> CountedState:
    """Return what is counted of an email, from its row's columns and the state that was counted, if it is older."""
    if counted_version == current.version:
        return CountedState(group_id, current.state)
    return CountedState(group_id, None if older_state is None else decode(EMAIL_STATES, older_state))


async def read_books(
    connection: Connection,
    pipeline: psycopg.AsyncPipeline,
    batches: Sequence[PartitionBatch],
    counted: Mapping[EmailId, CountedState],
) -> list[CampaignBook]:
    """Return the known campaigns for each batch, which must be of different partitions. Reads only what is needed."""
    periods = [{campaign_period(request) for request in first_requests(batch.changes, counted)} for batch in batches]
    rows = [
        {"partition": batch.partition, "tenant": period.tenant, "month": period.month}
        for batch, batch_periods in zip(batches, periods, strict=True)
        for period in sorted(batch_periods)
    ]
    known: defaultdict[int, defaultdict[CampaignPeriod, list[StatisticsCampaign]]]
    known = defaultdict(lambda: defaultdict(list))
    if rows:
        cursor = await connection.execute(SQL["campaigns"], by_column(rows))
        await pipeline.sync()
        for partition, tenant, month, *campaign in await cursor.fetchall():
            known[partition][CampaignPeriod(tenant, month)].append(StatisticsCampaign(*campaign))
    return [CampaignBook(known[batch.partition]) for batch in batches]


async def write(connection: Connection, parts: Iterable[tuple[int, StatisticsChanges]]) -> None:
    """Write what the batches of different partitions move."""
    groups: dict[int, StatisticsGroup] = {}
    campaigns: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    reduced: list[dict[str, Any]] = []
    for partition, changes in parts:
        groups |= changes.groups
        for period, added in changes.campaigns.items():
            campaigns += [{"partition": partition, **period._asdict(), **each._asdict()} for each in added]
        for cell, numbers in changes.cells.items():
            row = {**cell._asdict(), "partition": partition, **_number_columns(numbers)}
            cells.append(row)
            if min(numbers) < 0:
                reduced.append({name: row[name] for name in _KEY})
    group_rows = [{"group_id": group_id, **msgspec.structs.asdict(groups[group_id])} for group_id in sorted(groups)]
    for name, rows in (
        ("add_groups", group_rows),
        ("add_campaigns", campaigns),
        ("add_statistics", cells),
        ("remove_empty_statistics", reduced),
    ):
        if rows:
            await connection.execute(SQL[name], by_column(rows))


def _number_columns(numbers: Sequence[int]) -> dict[str, Any]:
    """Return a cell's numbers by column; the times as arrays in text form, because Postgres has no ragged arrays."""
    row: dict[str, Any] = dict(zip(COUNTERS, numbers, strict=False))
    for nth, name in enumerate(TIME_METRICS):
        start = len(COUNTERS) + nth * TIME_BUCKETS
        buckets = numbers[start : start + TIME_BUCKETS]
        row[name] = "{" + ",".join(map(str, buckets)) + "}" if any(buckets) else ""
    return row
