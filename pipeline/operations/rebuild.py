"""Rebuild the projections from `email-changes`, compare them with the live tables, and swap them in.

`mailfold rebuild` calls it. The live tables stay in use and are updated meanwhile. Projectors are blocked only briefly,
while the snapshot of the comparison is taken and during the swap. Jobs are not changed, except that missing jobs of
owed conversions are created.

`email-changes` keeps 400 days. Older rows exist in the live tables only: the comparison finds them as differences and
the swap is refused, unless `--force` is given, which loses them.
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
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import topic_partition
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.postgres.conninfo import session_conninfo
from pipeline.runtime.postgres.database import connect_session
from pipeline.runtime.postgres.leader import hold_command_lock
from projections import swap
from projections.locks import session_lock
from projections.sink import SWAP_LOCK, TOPIC, ChangeBatch, Sink
from projections.swap import TableDifference

ProgressCallback = Callable[[int, int], None]
"""Called with the number of records read so far and the total."""

REBUILD_LOCK_ID: Final = 0x7265626C
"""The advisory lock ("rebl") that excludes a second rebuild, which would write to the same schema."""


class RebuildMismatch(PermanentError):
    """The rebuilt tables differ from the live ones."""


class RebuildResult(msgspec.Struct, frozen=True):
    """The outcome of a rebuild."""

    records: int
    differences: Sequence[TableDifference]
    swapped: bool
    booked: int = 0


async def rebuild(
    rt: Runtime, progress: ProgressCallback, *, check: bool = False, force: bool = False
) -> RebuildResult:
    """Rebuild the tables, compare them with the live ones, and swap them in.

    Do not swap with ``check``, or if the tables differ, unless ``force`` is set. Raise Refused if another rebuild runs.
    """
    async with hold_command_lock(rt, "rebuild", REBUILD_LOCK_ID), await connect_session(rt.settings) as own:
        await swap.create_schema(own)
        try:
            return await _rebuild(rt, own, progress, check, force)
        finally:
            await swap.discard_rebuild(own)


async def _rebuild(rt: Runtime, own: Any, progress: ProgressCallback, check: bool, force: bool) -> RebuildResult:
    async with _open_reader(rt) as reader:
        replay = LogReplay(
            rt, reader, msgspec.structs.replace(make_sink(rt.settings), schema=swap.REBUILD_SCHEMA, live=False)
        )
        await replay.catch_up(progress)
        differences = await _compare(rt, replay, progress)
        if check or (differences and not force):
            return RebuildResult(replay.records, differences, False)
        await replay.catch_up(progress)
        async with session_lock(session_conninfo(rt.settings), SWAP_LOCK):
            await replay.catch_up(progress)
            booked = await swap.swap_schemas(own)
        await swap.drop_old(own)
        return RebuildResult(replay.records, differences, True, booked)


async def _compare(rt: Runtime, replay: "LogReplay", progress: ProgressCallback) -> list[TableDifference]:
    """Return the differences between both sets of tables at the same offsets.

    Projectors are blocked until the snapshot is taken, and continue during the comparison.
    """
    # Not the pool's: the transaction is idle while the replay catches up, and a comparison may take long.
    async with await connect_session(rt.settings) as comparing, comparing.transaction():
        await comparing.execute("set transaction isolation level repeatable read, read only")
        async with session_lock(session_conninfo(rt.settings), SWAP_LOCK):
            await replay.catch_up(progress)
            await comparing.execute("select 1 from projections.next_offsets")
        return await swap.differences(comparing)


class LogReplay:
    """The replay of `email-changes` into the rebuild's schema, from the beginning to the live tables' offsets."""

    def __init__(self, rt: Runtime, reader: AIOKafkaConsumer, sink: Sink) -> None:
        self._rt, self._reader, self._sink = rt, reader, sink
        self._next: dict[int, int] = {}
        self._skipped = SkippedRecords(rt.settings)
        self.records = 0

    async def catch_up(self, progress: ProgressCallback) -> None:
        """Replay up to the current offsets of the live tables."""
        targets = await self._live_offsets()
        for number in sorted(set(targets) - set(self._next)):
            await self._start_partition(number)
        unfinished = {number: end for number, end in targets.items() if self._next[number] < end}
        total = self.records + sum(end - self._next[number] for number, end in unfinished.items())
        async with asyncio.TaskGroup() as tasks:
            for number, end in unfinished.items():
                tasks.create_task(self._replay_to(number, end, lambda: progress(self.records, total)))
        progress(self.records, max(total, self.records))

    async def _live_offsets(self) -> dict[int, int]:
        async with self._rt.pool.connection() as connection:
            query = "select partition, next_offset from projections.next_offsets where topic = %s"
            return dict(await (await connection.execute(query, (TOPIC,))).fetchall())

    async def _start_partition(self, number: int) -> None:
        partition = topic_partition(TOPIC, number, self._rt.settings)
        self._reader.assign([*self._reader.assignment(), partition])
        beginning = (await self._reader.beginning_offsets([partition]))[partition]
        count = len(self._reader.partitions_for_topic(partition.topic) or ())
        async with self._rt.pool.connection() as connection:
            self._next[number] = await self._sink.start(connection, number, beginning, beginning, count)
        # The new assignment resets the positions of all partitions.
        for each, offset in self._next.items():
            self._reader.seek(topic_partition(TOPIC, each, self._rt.settings), offset)

    async def _replay_to(self, number: int, end: int, report_progress: Callable[[], None]) -> None:
        partition = topic_partition(TOPIC, number, self._rt.settings)
        while self._next[number] < end:
            fetched = await self._reader.getmany(partition, timeout_ms=250, max_records=TRANSACTION_MAX_RECORDS)
            records = [record for record in fetched.get(partition, []) if record.offset < end]
            until = min(await self._reader.position(partition), end)
            if until > self._next[number]:
                await self._write(FetchedRecords(number, self._next[number], until, records))
                self.records += until - self._next[number]
                self._next[number] = until
                report_progress()
        # Records beyond the end were fetched too: the next call has to read them again.
        self._reader.seek(partition, end)

    async def _write(self, fetched: FetchedRecords) -> None:
        async def write(readable: Sequence[Any]) -> None:
            await write_records(fetched._replace(records=readable), self._apply, _ignore_broken)

        await self._skipped.pass_over(fetched.records, write)

    async def _apply(self, batch: ChangeBatch) -> None:
        async with self._rt.pool.connection() as connection:
            await self._sink.apply(connection, batch)


async def _ignore_broken(_broken: Sequence[tuple[Any, str]]) -> None:
    """Do nothing: the projector has already made dead letters of these records."""


@contextlib.asynccontextmanager
async def _open_reader(rt: Runtime) -> AsyncIterator[AIOKafkaConsumer]:
    reader = create_consumer(rt.settings)
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()
