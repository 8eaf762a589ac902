"""Many entries in, a batch or more for each of their partitions out, and where each entry came to lie.

aiokafka's `send` costs 15 µs a record, most of it for a future that nobody but us waits for. Batches
of our own making need one future each; a record's offset is its batch's and its place in there.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from pipeline.runtime.partitioner import partition_of_key
from pipeline.runtime.ports import LogEntry
from topics.codec import encode
from topics.record import LogPosition

_ENTRIES_PER_YIELD = 100


class _PartitionBatch(msgspec.Struct):
    builder: Any
    topic: str
    partition: int
    entries: list[int] = msgspec.field(default_factory=list)
    """Which of the entries it holds, in order."""
    sent: "asyncio.Future[Any] | None" = None


class BatchProducer:
    """Appends many at once."""

    def __init__(self, producer: AIOKafkaProducer, prefix: str) -> None:
        self._producer = producer
        self._prefix = prefix
        self._turn = itertools.count()

    async def append(self, entries: Sequence[LogEntry], deadline: float) -> list[LogPosition | None]:
        """Each entry's place, None where it wasn't confirmed before ``deadline`` (the loop's clock)."""
        batches: list[_PartitionBatch] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                batches = await self._build(entries)
                await asyncio.gather(*(self._send(own) for own in _by_partition(batches)))
        pending = [batch.sent for batch in batches if batch.sent is not None]
        if pending:
            await asyncio.wait(pending, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return _places(entries, batches)

    async def _build(self, entries: Sequence[LogEntry]) -> list[_PartitionBatch]:
        made: list[_PartitionBatch] = []
        open_: dict[tuple[str, int], _PartitionBatch] = {}
        numbers: dict[str, list[int]] = {}
        turn = next(self._turn)
        for index, entry in enumerate(entries):
            if index % _ENTRIES_PER_YIELD == 0:
                await asyncio.sleep(0)  # a call may have thousands, and pixels wait
            if entry.topic.name not in numbers:
                numbers[entry.topic.name] = sorted(await self._producer.partitions_for(self._prefix + entry.topic.name))
            place = (entry.topic.name, _partition(entry, numbers[entry.topic.name], turn))
            if self._add(open_.get(place), index, entry):
                continue
            batch = _PartitionBatch(self._producer.create_batch(), *place)
            if not self._add(batch, index, entry):
                continue  # larger than any batch may be: it stays unconfirmed
            open_[place] = batch
            made.append(batch)
        return made

    @staticmethod
    def _add(batch: _PartitionBatch | None, index: int, entry: LogEntry) -> bool:
        if batch is None:
            return False
        key = None if entry.key is None else entry.key.encode()
        if batch.builder.append(timestamp=None, key=key, value=encode(entry.topic, entry.record)) is None:
            return False
        batch.entries.append(index)
        return True

    async def _send(self, batches: Sequence[_PartitionBatch]) -> None:
        """One partition's, in order; what can't be sent stays unconfirmed."""
        with contextlib.suppress(KafkaError):
            for batch in batches:
                batch.builder.close()
                topic = self._prefix + batch.topic
                batch.sent = await self._producer.send_batch(batch.builder, topic, partition=batch.partition)
                # Whoever gave up waiting doesn't look at it any more.
                batch.sent.add_done_callback(_seen)


def _partition(entry: LogEntry, numbers: Sequence[int], turn: int) -> int:
    if entry.partition is not None:
        return entry.partition
    if entry.key is None or entry.topic.key == "content_id":
        # A content is found by its pointer: a call's contents lie together, the next call's elsewhere.
        return numbers[turn % len(numbers)]
    return numbers[partition_of_key(entry.key.encode(), len(numbers))]


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
        base = batch.sent.result().offset
        for nth, index in enumerate(batch.entries):
            places[index] = LogPosition(topic=batch.topic, partition=batch.partition, offset=base + nth)
    return places


def _seen(sent: "asyncio.Future[Any]") -> None:
    if not sent.cancelled():
        sent.exception()
