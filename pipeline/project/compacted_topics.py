"""Projects a compacted topic of one partition into Postgres: rows and next offset in one transaction.

The projector follows `templates` and `suppressions` in this way beside `email-changes`, so that they need no role of
their own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.errors import LogTooShort, RecoverableError, RoleStopped
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.log import append_all, topic_partition
from pipeline.runtime.kafka.log_marks import describe_short_log
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import run_unless
from topics.codec import NewerRecord, Undecodable, decode
from topics.registry import DEAD_LETTERS, Topic

_RETRY_PAUSE_S: Final = 1.0
_HALT_PAUSE_S: Final = 30.0
_UNAVAILABLE_ERRORS: Final = (KafkaError, RecoverableError, *DATABASE_UNAVAILABLE_ERRORS)
_PARTITION: Final = 0

logger = get_logger(__name__)

ReportHalt = Callable[[Topic, str], None]
"""A function that is told why a topic is not projected although Kafka and Postgres answer; "" says that it is."""


class TopicProjection(Protocol):
    """The tables that a topic is projected into."""

    async def next_offset(self, connection: psycopg.AsyncConnection[Any], beginning: int, /) -> int:
        """Return the offset to read next; the log's ``beginning`` if nothing was ever projected."""

    async def project(
        self, connection: psycopg.AsyncConnection[Any], expected: int, upto: int, records: Sequence[tuple[int, Any]], /
    ) -> bool:
        """Write records and the next offset ``upto``; write nothing and return False if it isn't ``expected``."""


async def follow_topic(
    rt: Runtime, topic: Topic, tables: TopicProjection, batch_size: int, report_halt: ReportHalt
) -> None:
    """Project the topic until ``rt.stop``; wait and retry while Kafka or Postgres is unavailable.

    ``batch_size``: records in one transaction, at most.
    """
    skipped = SkippedRecords(rt.settings)
    while not rt.stop.is_set():
        try:
            await run_unless(rt.stop, _follow(rt, topic, tables, batch_size, skipped=skipped, report_halt=report_halt))
        except RoleStopped:
            return
        except _UNAVAILABLE_ERRORS as error:
            logger.warning("topic not projected, retrying", topic=topic.name, error=type(error).__name__)
        except (NewerRecord, LogTooShort) as error:
            logger.critical("projection halted", topic=topic.name, error=str(error))
            report_halt(topic, str(error))
            await sleep_unless(rt.stop, _HALT_PAUSE_S)
        await sleep_unless(rt.stop, _RETRY_PAUSE_S)


async def _follow(
    rt: Runtime,
    topic: Topic,
    tables: TopicProjection,
    batch_size: int,
    *,
    skipped: SkippedRecords,
    report_halt: ReportHalt,
) -> None:
    """Project batches until another projector, or `mailfold recover`, has moved the offset."""
    reader = create_consumer(rt.settings, fetch_max_wait_ms=500)
    await start_client(reader, rt.settings)
    try:
        partition = topic_partition(topic.name, _PARTITION, rt.settings)
        offset, end = await _seek_to_next(rt, reader, partition, tables)
        if offset >= end:
            report_halt(topic, "")  # whatever it halted at is gone or was projected by another projector
        while True:
            fetched = await get_records(reader, partition, timeout_ms=1000, max_records=batch_size)
            records = fetched.get(partition, [])
            if not records:
                if await _is_moved_back(rt, tables, offset):
                    return
                continue
            if records[0].offset < offset:
                # The offset to read next is not on the log any more, and the consumer went to the beginning.
                raise LogTooShort(describe_short_log(partition, offset, records[0].offset))
            decoded = await skipped.pass_over(records, functools.partial(_decode_or_bury, rt, topic))
            async with rt.pool.connection() as connection:
                if not await tables.project(connection, offset, records[-1].offset + 1, decoded):
                    return
            offset = records[-1].offset + 1
            report_halt(topic, "")
    finally:
        await reader.stop()


async def _seek_to_next(
    rt: Runtime, reader: AIOKafkaConsumer, partition: TopicPartition, tables: TopicProjection
) -> tuple[int, int]:
    """Assign the partition to the reader, and seek to the next offset; return that and the partition's end.

    Raise LogTooShort if the log ends before it.
    """
    reader.assign([partition])
    beginning = (await reader.beginning_offsets([partition]))[partition]
    end = (await reader.end_offsets([partition]))[partition]
    async with rt.pool.connection() as connection:
        offset = await tables.next_offset(connection, beginning)
    if offset > end:
        raise LogTooShort(describe_short_log(partition, offset, end))
    reader.seek(partition, offset)
    return offset, end


async def _is_moved_back(rt: Runtime, tables: TopicProjection, offset: int) -> bool:
    """Return whether `mailfold recover` wants the topic to be read again, which has no new records."""
    async with rt.pool.connection() as connection:
        return await tables.next_offset(connection, offset) < offset


async def _decode_or_bury(rt: Runtime, topic: Topic, records: Sequence[Any]) -> list[tuple[int, Any]]:
    """Return offsets and decoded records; append a dead letter for each undecodable one.

    Raise NewerRecord, before anything is appended.
    """
    decoded: list[tuple[int, Any]] = []
    dead_letters: list[LogEntry] = []
    for record in records:
        try:
            decoded.append((record.offset, decode(topic, record.value)))
        except NewerRecord as error:
            raise error.at(ConsumedRecord.of(topic, record.partition, record).place) from None
        except Undecodable as error:
            broken = ConsumedRecord.of(topic, record.partition, record)
            letter = broken.dead_letter(rt.clock(), "undecodable", str(error), role="project")
            dead_letters.append(LogEntry(DEAD_LETTERS, None, letter))
    if dead_letters:
        await append_all(rt.log, dead_letters)
    return decoded
