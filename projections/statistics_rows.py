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
    KnownCampaigns,
    StatisticsCampaign,
    StatisticsCell,
    StatisticsChanges,
    StatisticsGroup,
    campaign_period,
    first_requests,
    wanted_campaign,
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
    versions: Mapping[EmailId, CurrentVersion],
    counted: Mapping[EmailId, CountedState],
) -> list[CampaignBook]:
    """Return the known campaigns for each batch, which must be of different partitions.

    Reads only the campaigns that the batches ask for: ``versions`` are the current rows of the batches' emails.
    """
    rows = [
        {"partition": batch.partition, **period._asdict(), **campaign._asdict()}
        for batch in batches
        for period, campaign in sorted(_wanted_campaigns(batch, versions, counted))
    ]
    known: defaultdict[int, dict[CampaignPeriod, KnownCampaigns]] = defaultdict(dict)
    if rows:
        cursor = await connection.execute(SQL["campaigns"], by_column(rows))
        await pipeline.sync()
        for partition, tenant, month, total, is_known, has_brand, *names in await cursor.fetchall():
            period, campaign = CampaignPeriod(tenant, month), StatisticsCampaign(*names)
            before = known[partition].get(period, KnownCampaigns())
            known[partition][period] = KnownCampaigns(
                total,
                before.campaigns | {campaign} if is_known else before.campaigns,
                before.brands | {campaign.brand} if has_brand else before.brands,
            )
    return [CampaignBook(known[batch.partition]) for batch in batches]


def _wanted_campaigns(
    batch: PartitionBatch, versions: Mapping[EmailId, CurrentVersion], counted: Mapping[EmailId, CountedState]
) -> set[tuple[CampaignPeriod, StatisticsCampaign]]:
    """Return the campaigns of the emails that have no group yet; an older version's row may have the request alone."""
    changed = {change.email_id for change in batch.changes if isinstance(change, EmailChange)}
    older = [
        versions[email_id].state.request
        for email_id in changed & versions.keys()
        if email_id not in counted or counted[email_id].group_id is None
    ]
    requests = [*first_requests(batch.changes, counted), *(request for request in older if request is not None)]
    return {(campaign_period(request), wanted_campaign(request)) for request in requests}


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
