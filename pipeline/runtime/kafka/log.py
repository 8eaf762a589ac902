"""Append to Kafka with one idempotent producer, and find partitions; bootstrap opens it for each role.

The producer waits for all in-sync replicas.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka.batch_producer import BatchProducer
from pipeline.runtime.kafka.clients import create_producer
from pipeline.runtime.kafka.log_compression import LogCompression
from pipeline.runtime.kafka.renewable_producer import RenewableProducer, open_renewable_producer
from pipeline.runtime.observing.tracing import current_span, record_headers
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from topics.codec import encode
from topics.record import LogPosition
from topics.registry import MAX_RECORD_BYTES, Topic

MAX_REQUEST_BYTES = MAX_RECORD_BYTES + 100_000
FLUSH_TIMEOUT_S = 2.0
"""Seconds for a flush at the end. Nobody waits for what is unconfirmed then: every append has had its deadline."""
_BATCH_MIN_ENTRIES = 20
"""Entries of one call from which on they get batches of their own; fewer share batches with other calls' entries."""


class KafkaLog:
    """:class:`pipeline.runtime.ports.Log` on a Kafka cluster."""

    def __init__(self, producers: RenewableProducer, settings: Settings) -> None:
        self._producers = producers
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._timeout = settings.append_timeout
        self._bulk = BatchProducer(producers, settings.topic_prefix)
        self._required_topics: tuple[Topic, ...] = ()

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """Append the entries as :meth:`pipeline.runtime.ports.Log.append` says.

        One deadline covers the whole call, because aiokafka never expires an idempotent batch.
        """
        deadline = asyncio.get_running_loop().time() + (self._timeout if within is None else within)
        if len(entries) >= _BATCH_MIN_ENTRIES:
            return await self._bulk.append(entries, deadline)
        producer = self._producers.current
        sent: list[asyncio.Future[Any] | None] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                for entry in entries:
                    sent.append(await self._send(producer, entry))  # noqa: PERF401 - what was sent before the time-out counts
        sent += [None] * (len(entries) - len(sent))
        pending = [future for future in sent if future is not None]
        if pending:
            await asyncio.wait(pending, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        return [self._place(entry, future) for entry, future in zip(entries, sent, strict=True)]

    def require_topics(self, *topics: Topic) -> None:
        """Let :meth:`ping` ask for these topics, without which the role can't work."""
        self._required_topics = topics

    async def ping(self) -> None:
        """Raise LogUnavailable unless Kafka answers and a record could be appended to each required topic now.

        The last appends are confirmed, every partition of these topics has a leader and enough in-sync replicas, and
        every leader answers. No record is appended for it.
        """
        if problem := self._producers.find_problem(self._timeout):
            raise LogUnavailable(problem)
        client = self._producers.current.client
        try:
            leaders = self._find_leaders(await client.fetch_all_metadata())
            await asyncio.gather(*(client.send(leader, MetadataRequest([])) for leader in leaders))
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"Kafka does not answer: {error}") from error

    def _find_leaders(self, cluster: Any) -> set[int]:
        """Return the brokers that lead a partition of the required topics. Raise LogUnavailable."""
        leaders = set()
        for topic in self._required_topics:
            partitions = cluster._partitions.get(self._settings.topic(topic.name), {})
            if not partitions:
                raise LogUnavailable(f"{topic.name}: not there; `mailfold topics create` makes it")
            for number, partition in partitions.items():
                if partition.leader == -1 or len(partition.isr) < min_in_sync_replicas(self._settings):
                    raise LogUnavailable(f"{topic.name}/{number}: too few in-sync replicas, or no leader")
                leaders.add(partition.leader)
        return leaders

    async def append_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Append a record's bytes unchanged, such as a dead letter's. Raise LogUnavailable."""
        producer = self._producers.current
        try:
            async with asyncio.timeout(self._timeout):
                sent = await producer.send(self._prefix + topic, value, key=key)
                self._producers.track(producer, sent)
                await sent
        except (KafkaError, TimeoutError) as error:
            raise LogUnavailable from error

    async def _send(self, producer: AIOKafkaProducer, entry: LogEntry) -> "asyncio.Future[Any] | None":
        key = None if entry.key is None else entry.key.encode()
        value = encode(entry.topic, entry.record)
        try:
            sent: asyncio.Future[Any] = await producer.send(
                self._prefix + entry.topic.name,
                value,
                key=key,
                partition=entry.partition,
                headers=record_headers(current_span().traceparent),
            )
        except KafkaError:
            return None
        self._producers.track(producer, sent)
        return sent

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
async def open_kafka_log(settings: Settings, compression: LogCompression | None = None) -> AsyncIterator[KafkaLog]:
    """Open the log; flush and close it at the end. Raise LogUnavailable."""

    def create() -> AIOKafkaProducer:
        return create_producer(
            settings, compression, linger_ms=2, max_batch_size=262_144, max_request_size=MAX_REQUEST_BYTES
        )

    async with open_renewable_producer(settings, create, FLUSH_TIMEOUT_S) as producers:
        yield KafkaLog(producers, settings)


def min_in_sync_replicas(settings: Settings) -> int:
    """Return how many replicas must have a record before it is confirmed: all but one, and at least one.

    With Kafka's default of one, `acks=all` may mean the leader alone, and a confirmed record is lost with that broker.
    With two replicas it is one all the same, or the loss of either broker would stop all writes.
    """
    return max(1, settings.replication_factor - 1)


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
