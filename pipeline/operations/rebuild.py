"""`mailfold rebuild`: the whole of `email-changes` in; tables made anew, compared with what grew, swapped in.

The live tables go on serving and growing. Projectors wait twice for a moment: while a comparison's
snapshot is taken, and while the swap happens; the long reading and comparing disturbs nobody.
Jobs are never touched, but for debts that nobody had booked.

What a rebuild can't: `email-changes` keeps 400 days, so what is older is in the grown tables alone.
The comparison shows it, and the swap is refused; `--force` would drop it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer

from pipeline.errors import PermanentError
from pipeline.project.main import make_sink
from pipeline.project.partition import TRANSACTION_MAX_RECORDS, FetchedRecords, write_records
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import create_consumer, topic_partition
from pipeline.runtime.leader import hold_command_lock
from projections import swap
from projections.locks import session_lock
from projections.sink import SWAP_LOCK, TOPIC, ChangeBatch, Sink
from projections.swap import TableDifference

ProgressCallback = Callable[[int, int], None]
"""Told how many records are read, of how many."""

_REBUILD_LOCK_ID: Final = 0x7265626C
"""Advisory lock ("rebl"): two rebuilds would write one schema."""


class RebuildMismatch(PermanentError):
    """The rebuilt tables differ from those that grew."""


class RebuildResult(msgspec.Struct, frozen=True):
    """What came of it."""

    records: int
    differences: Sequence[TableDifference]
    swapped: bool
    booked: int = 0


async def rebuild(
    rt: Runtime, progress: ProgressCallback, *, check: bool = False, force: bool = False
) -> RebuildResult:
    """Build, compare, and (unless ``check``, or they differ and not ``force``) swap."""
    async with hold_command_lock(rt, "rebuild", _REBUILD_LOCK_ID), rt.pool.connection() as own:
        await own.set_autocommit(True)
        await swap.create_schema(own)
        try:
            return await _rebuild(rt, own, progress, check, force)
        finally:
            await swap.discard_rebuild(own)
            await own.set_autocommit(False)


async def _rebuild(rt: Runtime, own: Any, progress: ProgressCallback, check: bool, force: bool) -> RebuildResult:
    async with _reading(rt) as reader:
        replay = LogReplay(
            rt, reader, msgspec.structs.replace(make_sink(rt.settings), schema=swap.REBUILD_SCHEMA, live=False)
        )
        await replay.catch_up(progress)
        found = await _compare(rt, replay, progress)
        if check or (found and not force):
            return RebuildResult(replay.records, found, False)
        await replay.catch_up(progress)
        async with session_lock(rt.settings.database_url.get_secret_value(), SWAP_LOCK):
            await replay.catch_up(progress)
            booked = await swap.swap_schemas(own)
        await swap.drop_old(own)
        return RebuildResult(replay.records, found, True, booked)


async def _compare(rt: Runtime, replay: "LogReplay", progress: ProgressCallback) -> list[TableDifference]:
    """Both as they were at one moment, at the same offsets; the snapshot lets projectors go on meanwhile."""
    async with rt.pool.connection() as comparing, comparing.transaction():
        await comparing.execute("set transaction isolation level repeatable read, read only")
        # It locks no row, and what it waits for may take long.
        await comparing.execute("set local idle_in_transaction_session_timeout = 0")
        async with session_lock(rt.settings.database_url.get_secret_value(), SWAP_LOCK):
            await replay.catch_up(progress)
            await comparing.execute("select 1 from projections.next_offsets")
        return await swap.differences(comparing)


class LogReplay:
    """Reads the log from its beginning to where the live tables are, into the schema beside them."""

    def __init__(self, rt: Runtime, reader: AIOKafkaConsumer, sink: Sink) -> None:
        self._rt, self._reader, self._sink = rt, reader, sink
        self._next: dict[int, int] = {}
        self.records = 0

    async def catch_up(self, progress: ProgressCallback) -> None:
        """Read on to where the live tables are now."""
        targets = await self._live_offsets()
        for number in sorted(set(targets) - set(self._next)):
            await self._begin(number)
        left = {number: end for number, end in targets.items() if self._next[number] < end}
        total = self.records + sum(end - self._next[number] for number, end in left.items())
        async with asyncio.TaskGroup() as partitions:
            for number, end in left.items():
                partitions.create_task(self._read_to(number, end, lambda: progress(self.records, total)))
        progress(self.records, max(total, self.records))

    async def _live_offsets(self) -> dict[int, int]:
        async with self._rt.pool.connection() as connection:
            query = "select partition, next_offset from projections.next_offsets where topic = %s"
            return dict(await (await connection.execute(query, (TOPIC,))).fetchall())

    async def _begin(self, number: int) -> None:
        partition = topic_partition(TOPIC, number, self._rt.settings)
        self._reader.assign([*self._reader.assignment(), partition])
        beginning = (await self._reader.beginning_offsets([partition]))[partition]
        count = len(self._reader.partitions_for_topic(partition.topic) or ())
        async with self._rt.pool.connection() as connection:
            self._next[number] = await self._sink.start(connection, number, beginning, beginning, count)
        for known, offset in self._next.items():
            self._reader.seek(topic_partition(TOPIC, known, self._rt.settings), offset)

    async def _read_to(self, number: int, end: int, told: Callable[[], None]) -> None:
        partition = topic_partition(TOPIC, number, self._rt.settings)
        while self._next[number] < end:
            fetched = await self._reader.getmany(partition, timeout_ms=250, max_records=TRANSACTION_MAX_RECORDS)
            records = [record for record in fetched.get(partition, []) if record.offset < end]
            until = min(await self._reader.position(partition), end)
            if until > self._next[number]:
                await write_records(
                    FetchedRecords(number, self._next[number], until, records), self._apply, _already_buried
                )
                self.records += until - self._next[number]
                self._next[number] = until
                told()
        # What was fetched beyond belongs to the next time.
        self._reader.seek(partition, end)

    async def _apply(self, run: ChangeBatch) -> None:
        async with self._rt.pool.connection() as connection:
            await self._sink.apply(connection, run)


async def _already_buried(_broken: Sequence[tuple[Any, str]]) -> None:
    """The projector put these into the dead letters when it met them."""


@contextlib.asynccontextmanager
async def _reading(rt: Runtime) -> AsyncIterator[AIOKafkaConsumer]:
    reader = create_consumer(rt.settings)
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()
