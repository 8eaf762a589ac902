"""Find where the log lacks what was read from it into Postgres; `status`, `doctor` and `recover` call it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import discover_partitions, topic_partition
from pipeline.runtime.kafka.log_marks import find_lost_marks
from pipeline.runtime.postgres.database import Pool
from pipeline.settings import Settings
from projections.log_mark import LogMark, mark_from_row
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))


class LogLoss(msgspec.Struct, frozen=True):
    """A partition of which a reader has read something that is not on the log any more."""

    reader: str
    """`project`, `dispatch` or `correlation`, as in `mailfold status`."""
    topic: str
    partition: int
    next_offset: int
    """Where the reader would go on."""
    end: int
    """Where the log ends."""
    last_time: int | None = None
    """The time of the last record that was read, in milliseconds; None where it is not known."""

    @property
    def is_shorter(self) -> bool:
        """Return whether the log ends before what was read; else it has other records there."""
        return self.next_offset > self.end

    def __str__(self) -> str:
        """Return the loss in words."""
        place = f"{self.reader} has read {self.topic}/{self.partition} up to offset {self.next_offset}"
        return f"{place}, but it ends at {self.end}" if self.is_shorter else f"{place}, but it has other records there"


class ReaderPosition(msgspec.Struct, frozen=True):
    """How far a reader has come in a partition."""

    reader: str
    topic: str
    partition: int
    next_offset: int
    mark: LogMark | None


async def find_losses(settings: Settings, pool: Pool) -> list[LogLoss]:
    """Return all losses. Raise LogUnavailable."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(SQL["readers"])).fetchall()
    positions = [_position(*row) for row in rows]
    if not positions:
        return []
    consumer = create_consumer(settings)
    await start_client(consumer, settings)
    try:
        topics = sorted({settings.topic(position.topic) for position in positions})
        consumer.assign(await discover_partitions(consumer, *topics))
        return [
            loss
            for reader in sorted({position.reader for position in positions})
            for loss in await _compare(consumer, settings, [each for each in positions if each.reader == reader])
        ]
    finally:
        await consumer.stop()


def _position(reader: str, topic: str, partition: int, next_offset: int, *mark: Any) -> ReaderPosition:
    return ReaderPosition(reader, topic, partition, next_offset, mark_from_row(mark))


async def _compare(
    consumer: AIOKafkaConsumer, settings: Settings, positions: Sequence[ReaderPosition]
) -> list[LogLoss]:
    """Return the losses of one reader."""
    ends: Mapping[TopicPartition, int] = await consumer.end_offsets(list(consumer.assignment()))
    places = {topic_partition(each.topic, each.partition, settings): each for each in positions}
    present = {place: each for place, each in places.items() if place in ends}
    marks = {
        place: each.mark for place, each in present.items() if each.mark is not None and each.next_offset <= ends[place]
    }
    other = await find_lost_marks(consumer, marks)
    return [
        LogLoss(
            *(each.reader, each.topic, each.partition, each.next_offset, ends[place]),
            last_time=None if each.mark is None else each.mark.time,
        )
        for place, each in present.items()
        if place in other or each.next_offset > ends[place]
    ]
