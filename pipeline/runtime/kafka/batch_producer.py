"""Append many entries at once, in a batch or more per partition; :class:`pipeline.runtime.kafka.log.KafkaLog` calls it.

aiokafka's `send` costs 15 µs a record, most of it for the record's future. Batches that we build ourselves need one
future each: a record's offset is its batch's offset plus its index in the batch.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from pipeline.runtime.kafka.partitioner import partition_of_key
from pipeline.runtime.kafka.renewable_producer import RenewableProducer
from pipeline.runtime.observing.tracing import RecordHeaders, current_span, record_headers
from pipeline.runtime.ports import LogEntry
from topics.codec import encode
from topics.record import LogPosition

_ENTRIES_PER_YIELD = 100


class _PartitionBatch(msgspec.Struct):
    builder: Any
    topic: str
    partition: int
    entries: list[int] = msgspec.field(default_factory=list)
    """Indexes of the call's entries that the batch holds, in order."""
    sent: "asyncio.Future[Any] | None" = None


class BatchProducer:
    """A producer of whole batches on top of the aiokafka producer in use."""

    def __init__(self, producers: RenewableProducer, prefix: str) -> None:
        self._producers = producers
        self._prefix = prefix
        self._calls = itertools.count()

    async def append(self, entries: Sequence[LogEntry], deadline: float) -> list[LogPosition | None]:
        """Append the entries; return each one's place, or None where it wasn't confirmed before ``deadline``.

        The deadline is on the event loop's clock, in seconds.
        """
        batches: list[_PartitionBatch] = []
        producer = self._producers.current
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout_at(deadline):
                batches = await self._build(producer, entries)
                await asyncio.gather(*(self._send(producer, group) for group in _by_partition(batches)))
        pending = [batch.sent for batch in batches if batch.sent is not None]
        if pending:
            await asyncio.wait(pending, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return _places(entries, batches)

    async def _build(self, producer: AIOKafkaProducer, entries: Sequence[LogEntry]) -> list[_PartitionBatch]:
        batches: list[_PartitionBatch] = []
        open_batches: dict[tuple[str, int], _PartitionBatch] = {}
        partition_ids: dict[str, list[int]] = {}
        call_number = next(self._calls)
        headers = record_headers(current_span().traceparent)
        for index, entry in enumerate(entries):
            if index % _ENTRIES_PER_YIELD == 0:
                await asyncio.sleep(0)  # a call may have thousands of entries; other requests must not wait for all
            topic = entry.topic.name
            if topic not in partition_ids:
                partition_ids[topic] = sorted(await producer.partitions_for(self._prefix + topic))
            target = (topic, _choose_partition(entry, partition_ids[topic], call_number))
            if self._add(open_batches.get(target), index, entry, headers):
                continue
            batch = _PartitionBatch(producer.create_batch(), *target)
            if not self._add(batch, index, entry, headers):
                continue  # larger than any batch may be: it stays unconfirmed
            open_batches[target] = batch
            batches.append(batch)
        return batches

    @staticmethod
    def _add(batch: _PartitionBatch | None, index: int, entry: LogEntry, headers: RecordHeaders) -> bool:
        if batch is None:
            return False
        key = None if entry.key is None else entry.key.encode()
        value = encode(entry.topic, entry.record)
        if batch.builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            return False
        batch.entries.append(index)
        return True

    async def _send(self, producer: AIOKafkaProducer, batches: Sequence[_PartitionBatch]) -> None:
        """Send one partition's batches in order; what can't be sent stays unconfirmed."""
        with contextlib.suppress(KafkaError):
            for batch in batches:
                batch.builder.close()
                topic = self._prefix + batch.topic
                batch.sent = await producer.send_batch(batch.builder, topic, partition=batch.partition)
                self._producers.track(producer, batch.sent)


def _choose_partition(entry: LogEntry, partition_ids: Sequence[int], call_number: int) -> int:
    if entry.partition is not None:
        return entry.partition
    if entry.key is None or entry.topic.key == "content_id":
        # Contents are found by offset, not by key: all of a call's share one partition, the next call's take another.
        return partition_ids[call_number % len(partition_ids)]
    return partition_ids[partition_of_key(entry.key.encode(), len(partition_ids))]


def _by_partition(batches: Sequence[_PartitionBatch]) -> Iterator[list[_PartitionBatch]]:
    grouped: dict[tuple[str, int], list[_PartitionBatch]] = {}
    for batch in batches:
        grouped.setdefault((batch.topic, batch.partition), []).append(batch)
    yield from grouped.values()


def _places(entries: Sequence[LogEntry], batches: Sequence[_PartitionBatch]) -> list[LogPosition | None]:
    places: list[LogPosition | None] = [None] * len(entries)
    for batch in batches:
        if batch.sent is None or not batch.sent.done() or batch.sent.cancelled() or batch.sent.exception() is not None:
            continue
        first_offset = batch.sent.result().offset
        for position, index in enumerate(batch.entries):
            places[index] = LogPosition(topic=batch.topic, partition=batch.partition, offset=first_offset + position)
    return places
