"""One process at a time reads topics into Postgres: a lock, a reader's positions and their fencing.

Postgres gives the lock to one session and takes it back when that ends or falls silent. What a
reader writes, it writes in one transaction with its next offsets, and only from the offsets it
knew: a frozen predecessor's batch fails whole.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from psycopg_pool import PoolTimeout

from pipeline.errors import LeaseLost, RecoverableError, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.sleep import sleep_unless
from projections import locks
from projections.sql import SqlQueries
from topics.registry import DEAD_LETTERS, Topic

logger = logging.getLogger(__name__)

STANDBY_INTERVAL_S: Final = 1.0
"""Seconds between a standby's tries to become the reader."""
PING_INTERVAL_S: Final = 3.0
"""Seconds between signs of life; Postgres waits ten."""
CANCEL_TIMEOUT_S: Final = 5.0
"""Seconds that a cancelled reader gets to let go of its connections, of the ten that a role has after SIGTERM. One that
is left behind harms nobody: what it still wrote would be fenced by the offsets."""
_SET_SESSION_TIMEOUT: LiteralString = "set idle_session_timeout = '10s'"


async def run_as_leader(rt: Runtime, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` whenever this process is the one that may, until ``rt.stop``; what goes wrong is begun again.

    ``name`` is the lock's, the same in every process.
    """
    while not rt.stop.is_set():
        try:
            async with _leading(rt, name) as leading:
                if leading:
                    await _until_any(work(), rt.stop.wait(), _ping(leading))
        except (psycopg.Error, PoolTimeout, KafkaError, OSError, RecoverableError) as error:
            logger.warning("%s: %s: %s; beginning again", name, type(error).__name__, error)
        await sleep_unless(rt.stop, STANDBY_INTERVAL_S)


@contextlib.asynccontextmanager
async def hold_command_lock(rt: Runtime, name: str, key: locks.LockKey | None = None) -> AsyncIterator[None]:
    """Hold the lock of a command that only one process may run at a time. Raise Refused where another runs it.

    The lock's ``key`` is made of the command's name unless it is given.
    """
    url = rt.settings.database_url.get_secret_value()
    async with locks.session_lock(url, f"mailfold.{name}" if key is None else key, wait=False) as taken:
        if not taken:
            raise Refused(f"another {name} is under way")
        yield


class ReaderOffsets:
    """How far the topics are read: in memory, and in the table that ``sql`` names.

    ``sql`` has three queries, alike for every such table: next_offsets, begin_partition, advance.
    """

    def __init__(self, rt: Runtime, topics: Sequence[Topic], sql: SqlQueries) -> None:
        self._rt, self._sql = rt, sql
        self.topics = {rt.settings.topic(topic.name): topic for topic in topics}
        """By their name on the cluster."""
        self.next_offsets: dict[TopicPartition, int] = {}

    async def stored_offsets(self) -> dict[TopicPartition, int]:
        """What the table says."""
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(self._sql["next_offsets"])).fetchall()
        prefix = self._rt.settings.topic
        return {TopicPartition(prefix(topic), partition): offset for topic, partition, offset in rows}

    async def add_partitions(self, places: Sequence[TopicPartition]) -> None:
        """Let the table know partitions that nobody read before."""
        async with self._rt.pool.connection() as connection:
            values = self._columns(places) | {"offsets": [self.next_offsets[place] for place in places]}
            await connection.execute(self._sql["begin_partition"], values)

    async def advance(self, connection: psycopg.AsyncConnection[Any], upto: Mapping[TopicPartition, int]) -> None:
        """Move on, in the transaction that writes what was read. Raises LeaseLost where somebody else did."""
        values = self._columns(list(upto)) | {
            "expected": [self.next_offsets[place] for place in upto],
            "upto": list(upto.values()),
        }
        moved = await connection.execute(self._sql["advance"], values)
        if moved.rowcount != len(upto):
            raise LeaseLost("another dispatcher reads the log now")

    def dead_letter_entry(self, record: Any, why: str) -> LogEntry:
        """A record that is none of ours, for the dead letters."""
        found = ConsumedRecord.of(self.topics[record.topic], record.partition, record)
        logger.error("%s is no record of ours; it went to the dead letters", found.place)
        return LogEntry(DEAD_LETTERS, None, found.dead_letter(self._rt.clock(), "undecodable", why, role="dispatch"))

    def _columns(self, places: Sequence[TopicPartition]) -> dict[str, Any]:
        return {
            "topics": [self.topics[place.topic].name for place in places],
            "partitions": [place.partition for place in places],
        }


@contextlib.asynccontextmanager
async def _leading(rt: Runtime, name: str) -> AsyncIterator[psycopg.AsyncConnection[Any] | None]:
    """A session that holds the lock; None while another process has it."""
    url = rt.settings.database_url.get_secret_value()
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=locks.CONNECT_TIMEOUT_S)
    async with connection:
        await connection.execute(_SET_SESSION_TIMEOUT)
        yield connection if await locks.try_lock(connection, name) else None


async def _ping(connection: psycopg.AsyncConnection[Any]) -> None:
    while True:
        await asyncio.sleep(PING_INTERVAL_S)
        await connection.execute("select 1")


async def _until_any(*awaitables: Awaitable[Any]) -> None:
    """Run all until one ends; the others are cancelled, an error is raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        first, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended, left = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S)
        for task in ended:
            task.cancelled() or task.exception()  # heard of, whatever it was
        if left:
            logger.error("a reader does not end within %s s; it is left behind", CANCEL_TIMEOUT_S)
    for task in first:
        task.result()
