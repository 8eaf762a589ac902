"""A topic of one partition in, rows of Postgres out, next offset and all in one transaction.

The projector follows `templates` and `suppressions` beside its own topic, so that there's no role
more to run.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from psycopg_pool import PoolTimeout

from pipeline.errors import RecoverableError
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.kafka import append_all, create_consumer, topic_partition
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.sleep import sleep_unless
from topics.codec import Undecodable, decode
from topics.registry import DEAD_LETTERS, Topic

_RETRY_PAUSE_S: Final = 1.0
_UNAVAILABLE_ERRORS: Final = (KafkaError, psycopg.OperationalError, PoolTimeout, RecoverableError)
_PARTITION: Final = 0

logger = logging.getLogger(__name__)


class TopicProjection(Protocol):
    """What a topic becomes."""

    async def next_offset(self, connection: psycopg.AsyncConnection[Any], beginning: int, /) -> int:
        """Where to read on; the first time ever that is the log's beginning."""

    async def project(
        self, connection: psycopg.AsyncConnection[Any], expected: int, upto: int, records: Sequence[tuple[int, Any]], /
    ) -> bool:
        """Write offsets and records whole; False, and nothing, where the next offset isn't ``expected``."""


async def follow_topic(rt: Runtime, topic: Topic, tables: TopicProjection, at_once: int) -> None:
    """Project the topic until ``rt.stop``, so many records at once; what goes away is waited for."""
    while not rt.stop.is_set():
        try:
            await _follow(rt, topic, tables, at_once)
        except _UNAVAILABLE_ERRORS as error:
            logger.warning("%s: %s; beginning again", topic.name, type(error).__name__)
        await sleep_unless(rt.stop, _RETRY_PAUSE_S)


async def _follow(rt: Runtime, topic: Topic, tables: TopicProjection, at_once: int) -> None:
    reader = create_consumer(rt.settings, fetch_max_wait_ms=250)
    try:
        await reader.start()
        await _read(rt, reader, topic, tables, at_once)
    finally:
        await reader.stop()


async def _read(rt: Runtime, reader: AIOKafkaConsumer, topic: Topic, tables: TopicProjection, at_once: int) -> None:
    """Read on until stopped, or until another projector was faster."""
    partition = topic_partition(topic.name, _PARTITION, rt.settings)
    reader.assign([partition])
    beginning = (await reader.beginning_offsets([partition]))[partition]
    async with rt.pool.connection() as connection:
        at = await tables.next_offset(connection, beginning)
    reader.seek(partition, at)
    while not rt.stop.is_set():
        records = (await reader.getmany(partition, timeout_ms=250, max_records=at_once)).get(partition, [])
        if not records:
            continue
        found = await _decoded(rt, topic, records)
        async with rt.pool.connection() as connection:
            if not await tables.project(connection, at, records[-1].offset + 1, found):
                return
        at = records[-1].offset + 1


async def _decoded(rt: Runtime, topic: Topic, records: list[Any]) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    for record in records:
        try:
            found.append((record.offset, decode(topic, record.value)))
        except Undecodable as error:
            broken = ConsumedRecord.of(topic, record.partition, record)
            letter = broken.dead_letter(rt.clock(), "undecodable", str(error), role="project")
            await append_all(rt.log, [LogEntry(DEAD_LETTERS, None, letter)])
    return found
