"""Elect the one process that reads topics into Postgres, and fence its predecessors; the dispatcher calls it.

`rebuild` and `renormalize` take their locks here, too.

The lock belongs to one Postgres session, which loses it when it ends or sends nothing for ten seconds. The leader
writes each batch in one transaction with its next offsets, and only if the stored offsets are those it expects: the
batch of a predecessor that was frozen and woke up later fails as a whole.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, LiteralString, NoReturn

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.errors import LeaseLost, LogTooShort, RecoverableError, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.log_marks import describe_other_log, describe_short_log, find_lost_marks
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.conninfo import session_conninfo
from pipeline.runtime.postgres.database import check_writable, connect_session
from pipeline.runtime.sleep import sleep_unless
from projections import locks
from projections.log_mark import LogMark, last_mark, mark_columns, mark_from_row
from projections.sql import SqlQueries
from topics.registry import DEAD_LETTERS, Topic

logger = get_logger(__name__)

STANDBY_INTERVAL_S: Final = 1.0
"""Seconds between a standby's attempts to take the lock."""
PING_INTERVAL_S: Final = 3.0
"""Seconds between the leader's pings of its session; Postgres ends a session after ten without any."""
CANCEL_TIMEOUT_S: Final = 5.0
"""Seconds in which cancelled work must close its connections; a role must end within ten after SIGTERM. Work that is
abandoned then does no harm, because the offsets fence what it might still write."""
LOST_LOG_INTERVAL_S: Final = 10.0
"""Seconds between two looks at a log that lacks what was read from it."""
LOG_END_TIMEOUT_S: Final = 10.0
"""Seconds in which a broker that has just become a partition's leader must know how far the log was confirmed."""
_SET_SESSION_TIMEOUT: LiteralString = "set idle_session_timeout = '10s'"


async def run_as_leader(rt: Runtime, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` while this process is the leader, until ``rt.stop`` is set; restart it after recoverable errors.

    ``name`` is the lock's name, the same in every process.
    """
    while not rt.stop.is_set():
        try:
            async with _try_to_lead(rt, name) as session:
                if session:
                    await _run_until_any_ends(work(), rt.stop.wait(), _ping(session))
        except (psycopg.Error, KafkaError, OSError, RecoverableError) as error:
            logger.warning("task failed, restarting", task=name, error=f"{type(error).__name__}: {error}")
        except LogTooShort as error:
            logger.critical("log lacks what was read from it, reader stands still", task=name, error=str(error))
            await sleep_unless(rt.stop, LOST_LOG_INTERVAL_S)
        await sleep_unless(rt.stop, STANDBY_INTERVAL_S)


@contextlib.asynccontextmanager
async def hold_command_lock(rt: Runtime, name: str, key: locks.LockKey | None = None) -> AsyncIterator[None]:
    """Hold the lock of a command that only one process may run at a time. Raise Refused where another runs it.

    The lock's ``key`` is made from the command's ``name`` unless it is given.
    """
    lock_key = f"mailfold.{name}" if key is None else key
    async with locks.session_lock(session_conninfo(rt.settings), lock_key, wait=False) as acquired:
        if not acquired:
            raise Refused(f"another {name} is under way")
        yield


class ReaderOffsets:
    """The next offsets of a reader's partitions, in memory and in a table.

    ``sql`` has the three queries of that table: next_offsets, begin_partition, advance.
    """

    def __init__(self, rt: Runtime, topics: Sequence[Topic], sql: SqlQueries) -> None:
        self._rt, self._sql = rt, sql
        self.topics = {rt.settings.topic(topic.name): topic for topic in topics}
        """Topics by their name on the cluster."""
        self.next_offsets: dict[TopicPartition, int] = {}
        self.lost: dict[TopicPartition, str] = {}
        """Why :meth:`ends` raised LogTooShort, by partition."""

    async def stored_offsets(self) -> dict[TopicPartition, int]:
        """Return the next offsets that the table has."""
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(self._sql["next_offsets"])).fetchall()
        prefix = self._rt.settings.topic
        return {TopicPartition(prefix(topic), partition): offset for topic, partition, offset in rows}

    async def ends(self, reader: AIOKafkaConsumer, stored: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return the end offsets of the partitions that ``reader`` is assigned to.

        Raise LogTooShort if the log ends before one of the ``stored`` next offsets, or has another record where one
        was read. Leaves the consumer's positions elsewhere.
        """
        self.lost.clear()
        deadline = asyncio.get_running_loop().time() + LOG_END_TIMEOUT_S
        while True:
            ends: dict[TopicPartition, int] = await reader.end_offsets(list(reader.assignment()))
            lost = [place for place, offset in stored.items() if offset > ends.get(place, 0)]
            if not lost:
                await self._require_marks(reader, stored)
                return ends
            if asyncio.get_running_loop().time() > deadline:
                self._raise_lost(lost[0], describe_short_log(lost[0], stored[lost[0]], ends.get(lost[0], 0)))
            await asyncio.sleep(0.5)

    async def _require_marks(self, reader: AIOKafkaConsumer, stored: Mapping[TopicPartition, int]) -> None:
        """Raise LogTooShort where the log has another record than the last one that was read."""
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(self._sql["marks"])).fetchall()
        found = {TopicPartition(self._rt.settings.topic(row[0]), row[1]): mark_from_row(row[2:]) for row in rows}
        marks = {place: mark for place, mark in found.items() if mark is not None and place in stored}
        for place, mark in (await find_lost_marks(reader, marks)).items():
            self._raise_lost(place, describe_other_log(place, mark))

    def require_following(self, place: TopicPartition, first: int) -> None:
        """Raise LogTooShort where a batch begins before the next offset: the consumer went to the log's beginning."""
        if first < self.next_offsets[place]:
            self._raise_lost(place, describe_short_log(place, self.next_offsets[place], first))

    def _raise_lost(self, place: TopicPartition, reason: str) -> NoReturn:
        self.lost[place] = reason
        raise LogTooShort(reason)

    async def add_partitions(self, places: Sequence[TopicPartition]) -> None:
        """Add partitions that were never read before to the table, with their next offsets."""
        async with self._rt.pool.connection() as connection:
            values = self._columns(places) | {"offsets": [self.next_offsets[place] for place in places]}
            await connection.execute(self._sql["begin_partition"], values)

    async def advance(
        self,
        connection: psycopg.AsyncConnection[Any],
        upto: Mapping[TopicPartition, int],
        batches: Mapping[TopicPartition, Sequence[Any]] | None = None,
    ) -> None:
        """Store the next offsets and the marks of the batches, in the transaction that writes what was read.

        Raise LeaseLost where the stored ones are not the expected ones, because another process is the leader now.
        """
        values = self._columns(list(upto)) | {
            "expected": [self.next_offsets[place] for place in upto],
            "upto": list(upto.values()),
            **_mark_columns([last_mark((batches or {}).get(place, ()), end) for place, end in upto.items()]),
        }
        updated = await (await connection.execute(self._sql["advance"], values)).fetchall()
        if len(updated) != len(upto):
            raise LeaseLost("another dispatcher reads the log now")

    def dead_letter_entry(self, record: Any, why: str) -> LogEntry:
        """Return the dead letter of a record that can't be decoded, and log it."""
        consumed = ConsumedRecord.of(self.topics[record.topic], record.partition, record)
        logger.error("undecodable record, sent to the dead letters", position=str(consumed.place))
        return LogEntry(DEAD_LETTERS, None, consumed.dead_letter(self._rt.clock(), "undecodable", why, role="dispatch"))

    def _columns(self, places: Sequence[TopicPartition]) -> dict[str, Any]:
        return {
            "topics": [self.topics[place.topic].name for place in places],
            "partitions": [place.partition for place in places],
        }


def _mark_columns(marks: Sequence[LogMark | None]) -> dict[str, list[Any]]:
    """Return the marks as the columns of a statement."""
    rows = [mark_columns(mark) for mark in marks]
    return {name: [row[name] for row in rows] for name in mark_columns(None)}


@contextlib.asynccontextmanager
async def _try_to_lead(rt: Runtime, name: str) -> AsyncIterator[psycopg.AsyncConnection[Any] | None]:
    """Yield a session that holds the lock, or None while another process holds it."""
    async with await connect_session(rt.settings) as connection:
        await connection.execute(_SET_SESSION_TIMEOUT)
        yield connection if await locks.try_lock(connection, name) else None


async def _ping(connection: psycopg.AsyncConnection[Any]) -> None:
    while True:
        await asyncio.sleep(PING_INTERVAL_S)
        await check_writable(connection)


async def _run_until_any_ends(*awaitables: Awaitable[Any]) -> None:
    """Run all until one ends, then cancel the others; raise the error of the one that ended."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        first, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended, running = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S)
        for task in ended:
            task.cancelled() or task.exception()  # retrieved, so that asyncio does not log it
        if running:
            logger.error("leader's work abandoned after timeout", timeout_s=CANCEL_TIMEOUT_S)
    for task in first:
        task.result()
