"""The log on Kafka: one idempotent producer that waits for all in-sync replicas, and consumers by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.batch_producer import BatchProducer
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from topics.codec import encode
from topics.record import LogPosition
from topics.registry import MAX_RECORD_BYTES

MAX_REQUEST_BYTES = MAX_RECORD_BYTES + 100_000
_BATCH_MIN_ENTRIES = 20
"""From here on entries get batches of their own; fewer wait a moment for those of other requests."""


class KafkaLog:
    """:class:`pipeline.runtime.ports.Log` on a Kafka cluster."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._prefix = settings.topic_prefix
        self._timeout = settings.append_timeout
        self._bulk = BatchProducer(producer, settings.topic_prefix)

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """See the port. One deadline for the whole call, because aiokafka never expires an idempotent batch."""
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
        """Whether the producer gave up for good (a sequence number the broker refused): only a new one helps."""
        return bool(self._producer._sender.sender_task.done())

    async def ping(self) -> None:
        """Ask the cluster for its metadata. Raises LogUnavailable."""
        if self.is_dead:
            raise LogUnavailable("the producer gave up")
        try:
            await self._producer.client.fetch_all_metadata()
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"Kafka does not answer: {error}") from error

    async def append_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Append bytes as they once were. Raises LogUnavailable."""
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
    """Append all or raise LogUnavailable; for the roles that can only go on when everything is written."""
    places = await log.append(entries, within=within)
    if any(place is None for place in places):
        raise LogUnavailable
    return [place for place in places if place is not None]


@contextlib.asynccontextmanager
async def open_kafka_log(settings: Settings) -> AsyncIterator[KafkaLog]:
    """A started log; flushed and closed at the end, bounded in time."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=2,
        max_batch_size=262_144,
        max_request_size=MAX_REQUEST_BYTES,
    )
    async with running_producer(producer, settings, 5):
        yield KafkaLog(producer, settings)


@contextlib.asynccontextmanager
async def running_producer(producer: AIOKafkaProducer, settings: Settings, patience: float) -> AsyncIterator[None]:
    """A producer at work; flushed and closed at the end within ``patience`` seconds. Raises LogUnavailable."""
    try:
        await producer.start()
    except KafkaError as error:
        await producer.stop()
        raise LogUnavailable(f"Kafka at KAFKA_BOOTSTRAP={settings.kafka_bootstrap} does not answer: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(patience):
                await producer.stop()


def create_consumer(settings: Settings, *topics: str, **options: Any) -> AIOKafkaConsumer:
    """A consumer of our kind: reads only what is committed, from the beginning, never commits by itself."""
    return AIOKafkaConsumer(
        *[settings.topic(name) for name in topics],
        bootstrap_servers=settings.kafka_bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        **options,
    )


def topic_partition(topic: str, partition: int, settings: Settings) -> TopicPartition:
    """A topic's partition on the cluster."""
    return TopicPartition(settings.topic(topic), partition)


async def discover_partitions(reader: AIOKafkaConsumer, *names: str, patience: float = 10.0) -> list[TopicPartition]:
    """Every partition that these topics (names on the cluster) have there; what a reader by hand assigns itself.

    Raises LogUnavailable for a topic that doesn't show up.
    """
    # aiokafka knows the topics that it was told of, and is told of them by an assignment.
    reader.assign([TopicPartition(name, 0) for name in names])
    deadline = asyncio.get_running_loop().time() + patience
    while missing := [name for name in names if not reader.partitions_for_topic(name)]:
        if asyncio.get_running_loop().time() > deadline:
            raise LogUnavailable(f"{missing[0]}: not there; `mailfold topics create` makes it")
        await asyncio.sleep(0.02)
    return [
        TopicPartition(name, number) for name in names for number in sorted(reader.partitions_for_topic(name) or ())
    ]
