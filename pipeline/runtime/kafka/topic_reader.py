"""Read a topic that has one partition, from any offset to the end that it had when it was opened.

`mailfold dead`, `mailfold actions` and the search for skipped records use it.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import discover_partitions, topic_partition
from pipeline.settings import Settings
from topics.codec import NewerRecord, Undecodable, decode
from topics.record import Millis
from topics.registry import Topic


class TopicReader:
    """An open reader, and the range of offsets [beginning, end) that the topic had when it was opened."""

    def __init__(
        self, topic: Topic, reader: AIOKafkaConsumer, partition: TopicPartition, beginning: int, end: int
    ) -> None:
        self._topic, self._reader, self._partition = topic, reader, partition
        self.beginning, self.end = beginning, end

    async def offset_at(self, since: Millis) -> int:
        """Return the offset of the first record that was appended at this time or later; the end if there is none."""
        found = (await self._reader.offsets_for_times({self._partition: since}))[self._partition]
        return self.end if found is None else int(found.offset)

    async def read(self, start: int, stop: int) -> AsyncIterator[tuple[int, Any]]:
        """Yield the records in [start, stop) with their offsets; those that this version can't read are left out."""
        self._reader.seek(self._partition, start)
        # The position, not the last record's offset + 1: the last offset may be a transaction's marker.
        while await self._reader.position(self._partition) < stop:
            fetched = await get_records(self._reader, self._partition, timeout_ms=250)
            for record in fetched.get(self._partition, []):
                with contextlib.suppress(Undecodable, NewerRecord):
                    if record.offset < stop:
                        yield record.offset, decode(self._topic, record.value)


@contextlib.asynccontextmanager
async def open_topic_reader(settings: Settings, topic: Topic) -> AsyncIterator[TopicReader]:
    """Open a reader of a topic with one partition. Raise LogUnavailable, KafkaError."""
    reader = create_consumer(settings, fetch_max_wait_ms=50)
    await start_client(reader, settings)
    try:
        partition = topic_partition(topic.name, 0, settings)
        await discover_partitions(reader, partition.topic)
        reader.assign([partition])
        beginning = (await reader.beginning_offsets([partition]))[partition]
        end = (await reader.end_offsets([partition]))[partition]
        yield TopicReader(topic, reader, partition, beginning, end)
    finally:
        await reader.stop()
