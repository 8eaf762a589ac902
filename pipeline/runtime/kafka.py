"""Append to Kafka with one idempotent producer, and find partitions; bootstrap opens it for each role.

The producer waits for all in-sync replicas.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.batch_producer import BatchProducer
from pipeline.runtime.kafka_clients import create_producer, start_client
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from topics.codec import encode
from topics.record import LogPosition
from topics.registry import MAX_RECORD_BYTES

MAX_REQUEST_BYTES = MAX_RECORD_BYTES + 100_000
_BATCH_MIN_ENTRIES = 20
"""Entries of one call from which on they get batches of their own; fewer share batches with other calls' entries."""


class KafkaLog:
    """:class:`pipeline.runtime.ports.Log` on a Kafka cluster."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._prefix = settings.topic_prefix
        self._timeout = settings.append_timeout
        self._bulk = BatchProducer(producer, settings.topic_prefix)

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """Append the entries as :meth:`pipeline.runtime.ports.Log.append` says.

        One deadline covers the whole call, because aiokafka never expires an idempotent batch.
        """
        deadline = asyncio.get_running_loop().time() + (self._timeout if within is None else within)
        if len(entries) >= _BATCH_MIN_ENTRIES:
            return await self._bulk.append(entries, deadline)
        sent: list[asyncio.Future[Any] | None] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                for entry in entries:
                    sent.append(await self._send(entry))  # noqa: PERF401 - what was sent before the time-out counts
        sent += [None] * (len(entries) - len(sent))
        pending = [future for future in sent if future is not None]
        if pending:
            await asyncio.wait(pending, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return [self._place(entry, future) for entry, future in zip(entries, sent, strict=True)]

    @property
    def is_dead(self) -> bool:
        """Return whether the producer stopped for good, as after a sequence number that the broker refused.

        Only a new producer helps.
        """
        return bool(self._producer._sender.sender_task.done())

    async def ping(self) -> None:
        """Ask the cluster for its metadata. Raise LogUnavailable."""
        if self.is_dead:
            raise LogUnavailable("the producer stopped after an error that it can't recover from")
        try:
            await self._producer.client.fetch_all_metadata()
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"Kafka does not answer: {error}") from error

    async def append_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Append a record's bytes unchanged, such as a dead letter's. Raise LogUnavailable."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._producer.send_and_wait(self._prefix + topic, value, key=key)
        except (KafkaError, TimeoutError) as error:
            raise LogUnavailable from error

    async def _send(self, entry: LogEntry) -> "asyncio.Future[Any] | None":
        key = None if entry.key is None else entry.key.encode()
        value = encode(entry.topic, entry.record)
        try:
            sent: asyncio.Future[Any] = await self._producer.send(
                self._prefix + entry.topic.name, value, key=key, partition=entry.partition
            )
            return sent
        except KafkaError:
            return None

    def _place(self, entry: LogEntry, future: "asyncio.Future[Any] | None") -> LogPosition | None:
        if future is None or not future.done() or future.cancelled() or future.exception() is not None:
            return None
        metadata = future.result()
        return LogPosition(topic=entry.topic.name, partition=metadata.partition, offset=metadata.offset)


async def append_all(log: Any, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition]:
    """Append all entries and return their places; raise LogUnavailable unless every one is confirmed."""
    places = await log.append(entries, within=within)
    if any(place is None for place in places):
        raise LogUnavailable
    return [place for place in places if place is not None]


@contextlib.asynccontextmanager
async def open_kafka_log(settings: Settings) -> AsyncIterator[KafkaLog]:
    """Open the log; flush and close it at the end, within 5 seconds. Raise LogUnavailable."""
    producer = create_producer(settings, linger_ms=2, max_batch_size=262_144, max_request_size=MAX_REQUEST_BYTES)
    async with running_producer(producer, settings, 5):
        yield KafkaLog(producer, settings)


@contextlib.asynccontextmanager
async def running_producer(
    producer: AIOKafkaProducer, settings: Settings, stop_timeout_s: float
) -> AsyncIterator[None]:
    """Start the producer; flush and close it at the end, within ``stop_timeout_s``. Raise LogUnavailable."""
    await start_client(producer, settings)
    try:
        yield
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(stop_timeout_s):
                await producer.stop()


def topic_partition(topic: str, partition: int, settings: Settings) -> TopicPartition:
    """Return a topic's partition under the topic's name on the cluster."""
    return TopicPartition(settings.topic(topic), partition)


async def discover_partitions(reader: AIOKafkaConsumer, *names: str, timeout_s: float = 10.0) -> list[TopicPartition]:
    """Return every partition of these topics, which a reader without a group then assigns to itself.

    ``names`` are those on the cluster. Raise LogUnavailable for a topic without metadata after ``timeout_s``.
    """
    # aiokafka fetches metadata only for topics that it is assigned to.
    reader.assign([TopicPartition(name, 0) for name in names])
    deadline = asyncio.get_running_loop().time() + timeout_s
    while missing := [name for name in names if not reader.partitions_for_topic(name)]:
        if asyncio.get_running_loop().time() > deadline:
            raise LogUnavailable(f"{missing[0]}: not there; `mailfold topics create` makes it")
        await asyncio.sleep(0.02)
    return [
        TopicPartition(name, number) for name in names for number in sorted(reader.partitions_for_topic(name) or ())
    ]
