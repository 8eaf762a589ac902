"""Read the topic `dead-letters`: for `mailfold dead`, and for readers that look for skipped records."""

import contextlib
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.runtime.kafka import discover_partitions, topic_partition
from pipeline.runtime.kafka_clients import create_consumer, get_records, start_client
from pipeline.settings import Settings
from topics.codec import NewerRecord, Undecodable, decode
from topics.dead_letters import DeadLetter
from topics.registry import DEAD_LETTERS


class DeadLetterReader:
    """An open reader, and the range of offsets [beginning, end) that the topic had when it was opened."""

    def __init__(self, reader: AIOKafkaConsumer, partition: TopicPartition, beginning: int, end: int) -> None:
        self._reader, self._partition = reader, partition
        self.beginning, self.end = beginning, end

    async def read(self, start: int, stop: int) -> AsyncIterator[tuple[int, DeadLetter]]:
        """Yield the letters in [start, stop) with their offsets; what is no letter of this version is left out."""
        self._reader.seek(self._partition, start)
        # The position, not the last record's offset + 1: the last offset may be a transaction's marker.
        while await self._reader.position(self._partition) < stop:
            fetched = await get_records(self._reader, self._partition, timeout_ms=250)
            for record in fetched.get(self._partition, []):
                with contextlib.suppress(Undecodable, NewerRecord):
                    if record.offset < stop:
                        yield record.offset, decode(DEAD_LETTERS, record.value)


@contextlib.asynccontextmanager
async def open_dead_letters(settings: Settings) -> AsyncIterator[DeadLetterReader]:
    """Open a reader. Raise LogUnavailable, KafkaError."""
    reader = create_consumer(settings, fetch_max_wait_ms=50)
    await start_client(reader, settings)
    try:
        partition = topic_partition(DEAD_LETTERS.name, 0, settings)
        await discover_partitions(reader, partition.topic)
        reader.assign([partition])
        beginning = (await reader.beginning_offsets([partition]))[partition]
        end = (await reader.end_offsets([partition]))[partition]
        yield DeadLetterReader(reader, partition, beginning, end)
    finally:
        await reader.stop()
