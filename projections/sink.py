"""Writes batches of `email-changes` into Postgres: rows, conversions to send and the next offset in one transaction.

The next offset moves only from the value that the writer expects: a projector that lost its partition while it was
frozen, or that reads records twice, writes nothing. The role `project` and the rebuild use it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections import columns, mail_updates
from projections.log_mark import LogMark, mark_columns, mark_from_row
from projections.row_changes import CurrentVersion, RowChanges, compute_row_changes
from projections.sql import SqlQueries
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

    async def apply(self, connection: Connection, batch: ChangeBatch) -> None:
        """Write one batch. Raises OffsetConflict and writes nothing if another projector moved the offset."""
        async with connection.transaction():
            (rebuilding_to, through), versions = await self._read(connection, batch)
            changes = compute_row_changes(batch.changes, versions, self.hash_address, through, self.old_hash_address)
            held = rebuilding_to is not None and batch.next_offset < rebuilding_to
            released = rebuilding_to is not None and not held
            async with connection.pipeline():
                await _write_rows(connection, batch.partition, changes)
                if self.live:
                    await _write_jobs(connection, changes, held, batch.traces)
                if released:
                    await connection.execute(SQL["release"], (batch.partition,))
                if self.live and (changes.debts or released):
                    await connection.execute(SQL["wake"])
            self.crash_point("project.between-rows-and-offset")
            await self._advance(connection, batch, changes)
        self.crash_point("project.after-commit")

    async def _read(
        self, connection: Connection, batch: ChangeBatch
    ) -> tuple[tuple[int | None, Millis], dict[EmailId, CurrentVersion]]:
        """Lock the next offset; return the held offset, the partition's time and the emails' current versions."""
        async with connection.pipeline():
            await self._enter(connection)
            locked = await connection.execute(SQL["lock_offset"], (TOPIC, batch.partition))
            ids = list({change.email_id for change in batch.changes if isinstance(change, EmailChange)})
            current = await connection.execute(SQL["standing"], (ids,))
        offset = await locked.fetchone()
        if offset is None or offset[0] != batch.first_offset:
            raise OffsetConflict(
                f"partition {batch.partition}: expected {batch.first_offset}, found {offset and offset[0]}"
            )
        return (offset[1], offset[2]), {
            row[0]: CurrentVersion(row[1], row[2], decode(EMAIL_STATES, row[3])) for row in await current.fetchall()
        }

    async def _enter(self, connection: Connection) -> None:
        await connection.execute(SQL["enter"], {"schema": self.schema, "live": self.live, "lock": SWAP_LOCK})

    async def _advance(self, connection: Connection, batch: ChangeBatch, changes: RowChanges) -> None:
        values = {
            "topic": TOPIC,
            "partition": batch.partition,
            "expected": batch.first_offset,
            "next": batch.next_offset,
            "through": changes.through,
            "changed": changes.changed,
            **mark_columns(batch.last_record),
        }
        advanced = await connection.execute(SQL["advance"], values)
        assert advanced.rowcount == 1, "the row is locked and was checked"


async def _write_rows(connection: Connection, partition: int, changes: RowChanges) -> None:
    await _bulk(connection, "stand", columns.history(changes.standing.items()), partition=partition)
    await _bulk(connection, "close", columns.versions(changes.closed))
    await _write_mails(connection, changes)
    await _bulk(connection, "remember", columns.timeline(changes.timeline.items()))
    await _bulk(connection, "take_back", columns.withdrawn_evidence(changes.evidence.items()))
    await _bulk(connection, "tell", columns.evidence(changes.evidence.items()))
    await _bulk(connection, "identify", columns.identities(changes.requests.values()))


async def _write_mails(connection: Connection, changes: RowChanges) -> None:
    """Write the mails before the timeline: a view that is on the timeline already was counted before."""
    emails, events = zip(*views, strict=True) if (views := mail_updates.view_events(changes.timeline)) else ((), ())
    await _bulk(
        connection, "mail", mail_updates.rows(changes.mails), view_emails=list(emails), view_events=list(events)
    )


async def _write_jobs(connection: Connection, changes: RowChanges, held: bool, traces: Mapping[EmailId, str]) -> None:
    debts = columns.debts(changes.debts, changes.ended, "held" if held else "pending", traces)
    await _bulk(connection, "owe", debts)
    await _bulk(connection, "settle", columns.settlements(changes.ended.items()))


async def _bulk(connection: Connection, name: str, rows: Iterable[Mapping[str, Any]], **values: Any) -> None:
    """Execute one statement for all rows, with an array per column: a fifth of the time of a statement per row."""
    table = list(rows)
    if table:
        by_column = {column: [row[column] for row in table] for column in table[0]}
        await connection.execute(SQL[name], by_column | values)
