"""Writes batches of `email-changes` into Postgres: rows, conversions to send and the next offset in one transaction.

The next offset moves only from the value that the writer expects: a projector that lost its partition while it was
frozen, or that reads records twice, writes nothing. The role `project` and the rebuild use it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import psycopg

from projections import columns, mail_updates, statistics_rows
from projections.email_facets import NormalizeAddress, lower_case_address
from projections.log_mark import LogMark, mark_columns, mark_from_row
from projections.row_changes import CurrentVersion, RowChanges, compute_row_changes, join_row_changes, tenant_of
from projections.sql import SqlQueries, by_column
from projections.statistics import CampaignBook, CountedState, StatisticsChanges, compute_statistics
from projections.suppression_rules import HashAddress
from topics.changes import EmailChange, Tick
from topics.codec import decode
from topics.record import EmailId, Millis
from topics.registry import EMAIL_CHANGES, EMAIL_STATES

SQL: Final = SqlQueries(Path(__file__).with_name("sink.sql"))
TOPIC: Final = EMAIL_CHANGES.name
SWAP_LOCK: Final = 0x73776170
"""Key of an advisory lock ("swap"): projecting transactions share it, a rebuild's swap holds it exclusively."""

Connection = psycopg.AsyncConnection[Any]
CrashPoint = Callable[[str], None]


class OffsetConflict(Exception):
    """The next offset is not what this writer expected: another projector writes this partition."""


class ChangeBatch(msgspec.Struct, frozen=True):
    """Consecutive changes of one partition and the range of offsets [first_offset, next_offset) they cover."""

    partition: int
    first_offset: int
    next_offset: int
    changes: Sequence[EmailChange | Tick] = ()
    last_record: LogMark | None = None
    """The last record in the range; None if it has none."""
    traces: Mapping[EmailId, str] = {}
    """The trace contexts of traced emails, which the jobs of their conversions carry on."""

    def tenants(self) -> set[str]:
        """Return the tenants whose emails change, as far as the changes name them."""
        changes = (change for change in self.changes if isinstance(change, EmailChange))
        return {tenant for change in changes if (tenant := tenant_of(change)) is not None}

    def email_ids(self) -> set[EmailId]:
        """Return the ids of the emails that change."""
        return {change.email_id for change in self.changes if isinstance(change, EmailChange)}


class _PartitionState(NamedTuple):
    """What the table of offsets says of a partition, whose row is locked."""

    next_offset: int
    rebuilding_to: int | None
    through: Millis


class _CurrentRows(NamedTuple):
    """The rows about the partitions and emails of some batches."""

    states: Mapping[int, _PartitionState]
    versions: Mapping[EmailId, CurrentVersion]
    counted: Mapping[EmailId, CountedState]
    deleted_tenants: Collection[str]


class _PartitionChanges(NamedTuple):
    """A batch with the row changes that it causes."""

    batch: ChangeBatch
    changes: RowChanges
    rebuilding_to: int | None
    statistics: StatisticsChanges

    @property
    def is_held(self) -> bool:
        """Return whether the partition is read for the first time and not at its end: new jobs are held."""
        return self.rebuilding_to is not None and self.batch.next_offset < self.rebuilding_to

    @property
    def is_released(self) -> bool:
        """Return whether the first reading of the partition ends with this batch."""
        return self.rebuilding_to is not None and not self.is_held


def _no_crash(_name: str) -> None:
    """Do nothing: only tests crash on purpose."""


class Sink(msgspec.Struct, frozen=True):
    """Writes batches into one schema: the live one, or a rebuild's, for which it creates no jobs."""

    hash_address: HashAddress
    crash_point: CrashPoint = _no_crash
    schema: str = "projections"
    live: bool = True
    old_hash_address: HashAddress | None = None
    """The hash under which earlier versions wrote evidence; withdrawn evidence is deleted there as well."""
    normalize_address: NormalizeAddress = lower_case_address
    """Returns the spelling under which recipients are found."""

    async def start(self, connection: Connection, partition: int, beginning: int, end: int, partitions: int = 1) -> int:
        """Return the offset to read next.

        If nothing was ever projected, that is the log's ``beginning``, and new jobs are held until its ``end``.
        """
        async with connection.transaction():
            await self._enter(connection)
            held_to = end if self.live and end > beginning else None
            await connection.execute(SQL["first_offset"], (TOPIC, partition, beginning, held_to, partitions))
            row = await (await connection.execute(SQL["next_offset"], (TOPIC, partition))).fetchone()
            assert row is not None
            return int(row[0])

    async def read_mark(self, connection: Connection, partition: int) -> LogMark | None:
        """Return the mark of the last record that was projected; None if there was none."""
        async with connection.transaction():
            await self._enter(connection)
            row = await (await connection.execute(SQL["mark"], (TOPIC, partition))).fetchone()
            return None if row is None else mark_from_row(row)

    async def apply(self, connection: Connection, *batches: ChangeBatch) -> None:
        """Write batches of different partitions, which share no email, in one transaction.

        Raises OffsetConflict and writes nothing if another projector moved one of the offsets.
        """
        async with connection.pipeline() as pipeline, connection.transaction():
            current = await self._read(connection, pipeline, batches)
            books = await statistics_rows.read_books(connection, pipeline, batches, current.counted)
            parts = [self._compute(batch, current, book) for batch, book in zip(batches, books, strict=True)]
            await self._write(connection, parts)
            self.crash_point("project.between-rows-and-offset")
            await self._advance(connection, parts)
            # Not with the commit: after an error the transaction must end by a rollback, which is sent only now.
            await pipeline.sync()
        self.crash_point("project.after-commit")

    async def _read(
        self, connection: Connection, pipeline: psycopg.AsyncPipeline, batches: Sequence[ChangeBatch]
    ) -> _CurrentRows:
        """Lock the partitions' offsets; return what the tables have about the batches."""
        await self._enter(connection)
        locked = await connection.execute(SQL["lock_offsets"], (TOPIC, [batch.partition for batch in batches]))
        ids = list(set[EmailId]().union(*(batch.email_ids() for batch in batches)))
        current = await connection.execute(SQL["current_states"], (ids,))
        tenants = list(set[str]().union(*(batch.tenants() for batch in batches)))
        deleted = await connection.execute(SQL["deleted_tenants"], (tenants,))
        await pipeline.sync()
        states = {row[0]: _PartitionState(*row[1:]) for row in await locked.fetchall()}
        for batch in batches:
            state = states.get(batch.partition)
            if state is None or state.next_offset != batch.first_offset:
                raise OffsetConflict(
                    f"partition {batch.partition}: expected {batch.first_offset}, found {state and state.next_offset}"
                )
        versions: dict[EmailId, CurrentVersion] = {}
        counted: dict[EmailId, CountedState] = {}
        for email_id, version, valid_from, current_state, *counted_columns in await current.fetchall():
            versions[email_id] = CurrentVersion(version, valid_from, decode(EMAIL_STATES, current_state))
            counted[email_id] = statistics_rows.counted_state(versions[email_id], *counted_columns)
        return _CurrentRows(states, versions, counted, {row[0] for row in await deleted.fetchall()})

    def _compute(self, batch: ChangeBatch, current: _CurrentRows, book: CampaignBook) -> _PartitionChanges:
        state = current.states[batch.partition]
        changes = compute_row_changes(
            batch.changes,
            current.versions,
            self.hash_address,
            state.through,
            self.old_hash_address,
            deleted_tenants=current.deleted_tenants,
        )
        after = ((email_id, version.state) for email_id, version in changes.standing.items())
        kept = [change for change in batch.changes if getattr(change, "email_id", None) not in changes.removed]
        statistics = compute_statistics(kept, after, current.counted, book)
        return _PartitionChanges(batch, changes, state.rebuilding_to, statistics)

    async def _enter(self, connection: Connection) -> None:
        await connection.execute(SQL["select_schema"], {"schema": self.schema, "live": self.live, "lock": SWAP_LOCK})

    async def _write(self, connection: Connection, parts: Sequence[_PartitionChanges]) -> None:
        await _write_rows(connection, parts, self.normalize_address)
        released = [part.batch.partition for part in parts if part.is_released]
        if self.live:
            await _write_jobs(connection, parts)
        if released:
            await connection.execute(SQL["release_jobs"], (released,))
        if self.live and (released or any(part.changes.debts for part in parts)):
            await connection.execute(SQL["notify_emitters"])

    async def _advance(self, connection: Connection, parts: Sequence[_PartitionChanges]) -> None:
        rows = [
            {
                "partition": batch.partition,
                "expected": batch.first_offset,
                "next": batch.next_offset,
                "through": changes.through,
                "changed": changes.changed,
                **mark_columns(batch.last_record),
            }
            for batch, changes, *_ in parts
        ]
        await _bulk(connection, "advance", rows, topic=TOPIC)


async def _write_rows(
    connection: Connection, parts: Sequence[_PartitionChanges], normalize_address: NormalizeAddress
) -> None:
    changes = join_row_changes([part.changes for part in parts])
    if changes.removed:
        await connection.execute(SQL["remove_emails"], {"email_ids": sorted(changes.removed)})
    current = (
        columns.history(part.changes.standing.items(), part.batch.partition, part.statistics.group_ids)
        for part in parts
    )
    await _bulk(connection, "write_current", chain.from_iterable(current))
    await _bulk(connection, "write_versions", columns.versions(changes.closed))
    await _bulk(connection, "write_requests", columns.requests(changes.first_requests.items(), normalize_address))
    await _write_mails(connection, changes)
    await _write_timeline(connection, changes)
    await _bulk(connection, "remove_evidence", columns.withdrawn_evidence(changes.evidence.items()))
    await _bulk(connection, "add_evidence", columns.evidence(changes.evidence.items()))
    await _bulk(connection, "add_identities", columns.identities(changes.requests.values()))
    await statistics_rows.write(connection, [(part.batch.partition, part.statistics) for part in parts])


async def _write_mails(connection: Connection, changes: RowChanges) -> None:
    """Write the mails before the timeline: a view that is on the timeline already was counted before."""
    emails, events = zip(*views, strict=True) if (views := mail_updates.view_events(changes.timeline)) else ((), ())
    await _bulk(
        connection, "write_mails", mail_updates.rows(changes.mails), view_emails=list(emails), view_events=list(events)
    )


async def _write_timeline(connection: Connection, changes: RowChanges) -> None:
    """Write the facts; readings that they correct are kept beside, as the timeline was before."""
    readings = list(columns.corrected_readings(changes.timeline.items()))
    await _bulk(connection, "keep_superseded_rows", readings)
    await _bulk(connection, "keep_superseded_readings", readings)
    await _bulk(connection, "write_timeline", columns.timeline(changes.timeline.items()))


async def _write_jobs(connection: Connection, parts: Sequence[_PartitionChanges]) -> None:
    owed = (
        columns.debts(part.changes.debts, part.changes.ended, "held" if part.is_held else "pending", part.batch.traces)
        for part in parts
    )
    await _bulk(connection, "add_jobs", chain.from_iterable(owed))
    ended = chain.from_iterable(part.changes.ended.items() for part in parts)
    await _bulk(connection, "close_jobs", columns.settlements(ended))


async def _bulk(connection: Connection, name: str, rows: Iterable[Mapping[str, Any]], **values: Any) -> None:
    """Execute one statement for all rows, with an array per column: a fifth of the time of a statement per row."""
    table = list(rows)
    if table:
        await connection.execute(SQL[name], by_column(table) | values)
