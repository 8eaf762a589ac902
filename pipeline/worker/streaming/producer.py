"""The worker's Kafka producers: every write is confirmed by all in-sync replicas or raises an error.

`EventProducer` writes what may be written twice (events with deterministic ids). `TransactionalProducer` belongs to one
partition: states, changes, dead letters and the offsets of their facts become readable together or not at all, and
opening it fences the producer that had the partition before.
"""

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTxnState,
    KafkaError,
    ProducerFenced,
)

from pipeline.errors import Fenced, LogUnavailable
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka.clients import close_producer, create_producer, start_client
from pipeline.runtime.kafka.log import MAX_REQUEST_BYTES
from pipeline.runtime.kafka.log_compression import LogCompression
from pipeline.runtime.kafka.partitioner import partition_of_key
from pipeline.runtime.observing.tracing import NO_HEADERS, current_span, record_headers
from pipeline.settings import Settings
from pipeline.webhooks.normalize import EncodedRecord
from topics.registry import EMAIL_CHANGES, TOPICS, Topic

KeyValuePairs = Iterable[tuple[bytes | None, bytes | None]]
"""Keys and values; None for a value is a tombstone."""
PartitionWrites = Mapping[tuple[Topic, int], KeyValuePairs]
"""Records by topic and partition: a state and its change go to the partition of their facts."""

TraceContexts = Mapping[bytes | None, str]
"""The trace contexts of traced records, by key."""

_TOPICS: Final = {topic.name: topic for topic in TOPICS}

EndOffsets = dict[tuple[str, int], int]
"""The last written offset by topic name and partition; -1 where nothing was written."""

TRANSACTION_TIMEOUT_MS: Final = 30_000
"""Milliseconds after which the brokers abort a dead worker's transaction; until then readers stop before it. The next
owner of the partition aborts it earlier; a worker that waits for a new leader must not lose its own."""
WRITE_APPEND_TIMEOUTS: Final = 4
"""Append time-outs that a write may take. By default that is 20 s, in which the cluster replaces a broker that fails; a
worker that gives up earlier restarts in the middle of it, which takes longer."""
_FENCED_ERRORS: Final = (ProducerFenced, InvalidProducerEpoch, InvalidTxnState)
_EVENT_FLUSH_TIMEOUT_S: Final = 3.0
_TRANSACTION_FLUSH_TIMEOUT_S: Final = 1.0
"""Seconds in which a transactional producer may finish; the next one to open aborts what is not committed."""


class EventProducer:
    """The worker's producer without transactions."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._settings = settings
        self._round_robin = itertools.count()

    async def append(self, outputs: Sequence[EncodedRecord]) -> None:
        """Append all, each to its key's partition. Raises LogUnavailable."""
        if not outputs:
            return
        writes: dict[tuple[Topic, int], list[tuple[bytes | None, bytes | None]]] = defaultdict(list)
        for output in outputs:
            key = None if output.key is None else output.key.encode()
            topic = _TOPICS[output.topic]
            writes[topic, self._partition(topic, key)].append((key, output.value))
        context = current_span().traceparent
        traces = {topic: dict.fromkeys((key for key, _ in pairs), context) for (topic, _), pairs in writes.items()}
        writing = _write(self._producer, self._settings, writes, traces if context else {})
        await _confirmed(writing, self._settings)

    def _partition(self, topic: Topic, key: bytes | None) -> int:
        if topic.has_one_partition or key is None:
            return 0 if topic.has_one_partition else next(self._round_robin) % self._settings.partitions
        return partition_of_key(key, self._settings.partitions)


class TransactionalProducer:
    """A partition's only producer; its transactional id names the consumer group and the partition."""

    def __init__(
        self, settings: Settings, group: str, partition: int, compression: LogCompression | None = None
    ) -> None:
        self._settings = settings
        self._group = group
        self._producer = _producer(settings, compression, f"{group}-{partition}")

    async def open(self) -> None:
        """Abort an open transaction of the partition's earlier producer and fence it. Raises LogUnavailable."""
        await start_client(self._producer, self._settings)

    async def write(
        self, writes: PartitionWrites, offsets: Mapping[Any, int], traces: TraceContexts | None = None
    ) -> EndOffsets:
        """Write records and offsets in one transaction; return the end offsets. Raises Fenced, LogUnavailable.

        ``traces``: the trace contexts that changes carry on, by key.
        """
        return await _confirmed(self._transaction(writes, offsets, traces or {}), self._settings)

    async def _transaction(
        self, writes: PartitionWrites, offsets: Mapping[Any, int], traces: TraceContexts
    ) -> EndOffsets:
        await self._producer.begin_transaction()
        self._consume_transaction_error()
        sent = _write(self._producer, self._settings, writes, {EMAIL_CHANGES: traces})
        added = self._add(offsets)
        # Await both even if one fails: aiokafka logs an error for a future whose exception is never retrieved.
        outcomes = await asyncio.gather(sent, added, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        crash_point("fold.in-transaction")
        await self._producer.commit_transaction()
        return cast("EndOffsets", outcomes[0])

    async def _add(self, offsets: Mapping[Any, int]) -> None:
        """Add the offsets to the transaction; tombstones alone have none, and aiokafka refuses an empty commit."""
        if offsets:
            await self._producer.send_offsets_to_transaction(dict(offsets), self._group)

    async def close(self) -> None:
        """Close the producer; the next one to open aborts what is not committed."""
        await close_producer(self._producer, _TRANSACTION_FLUSH_TIMEOUT_S)
        self._consume_transaction_error()

    def _consume_transaction_error(self) -> None:
        """Retrieve the error of the transaction's own future, which asyncio would report as never retrieved.

        Called at the start and at the end: aiokafka creates another future for a failure after a failure.
        """
        end = self._producer._txn_manager.wait_for_transaction_end()
        if end is not None:
            end.add_done_callback(_retrieve_exception)


def _retrieve_exception(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


async def _confirmed(writing: Coroutine[Any, Any, EndOffsets], settings: Settings) -> EndOffsets:
    """Return the result of a write. Raises LogUnavailable after `WRITE_APPEND_TIMEOUTS`, Fenced for a fenced producer.

    The timeout is waited for in two halves: in a process that was frozen the first one is over when it wakes, and
    in the second it can still read the broker's response.
    """
    task = asyncio.ensure_future(writing)
    timeout_s = WRITE_APPEND_TIMEOUTS * settings.append_timeout
    try:
        for _ in range(2):
            await asyncio.wait({task}, timeout=timeout_s / 2)
        if task.done():
            return task.result()
    except (KafkaError, AssertionError) as error:  # aiokafka asserts its transactions' states
        if _is_fenced(error):
            raise Fenced from error
        raise LogUnavailable(f"the log did not confirm in time: {error!r}") from error
    finally:
        task.cancel()
    raise LogUnavailable(f"the log did not confirm in time: {timeout_s:g} s")


def _is_fenced(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _FENCED_ERRORS):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _write(
    producer: Any, settings: Settings, writes: PartitionWrites, traces: Mapping[Topic, TraceContexts]
) -> EndOffsets:
    ends = await asyncio.gather(
        *(
            _write_partition(producer, settings.topic(topic.name), number, pairs, traces.get(topic, {}))
            for (topic, number), pairs in writes.items()
        )
    )
    return dict(zip([(topic.name, number) for topic, number in writes], ends, strict=True))


async def _write_partition(
    producer: Any, topic: str, partition: int, pairs: KeyValuePairs, traces: TraceContexts
) -> int:
    """Send one Kafka batch after the other, which keeps the records' order; return the last offset, -1 for none."""
    end = -1
    batch: Any = producer.create_batch()
    for key, value in pairs:
        headers = record_headers(traces.get(key, "")) if traces else NO_HEADERS
        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
            end = await _send(producer, batch, topic, partition)
            batch = producer.create_batch()
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                raise LogUnavailable(f"a record of {len(value or b'')} bytes fits in no batch of {topic}")
    return await _send(producer, batch, topic, partition) if batch.record_count() else end


async def _send(producer: Any, batch: Any, topic: str, partition: int) -> int:
    """Send a batch and wait for its confirmation; return its last offset."""
    count = batch.record_count()
    sent = await producer.send_batch(batch, topic, partition=partition)
    # A batch that fails before it is sent sets the error on a second future, which asyncio would report.
    for queued in producer._message_accumulator._batches.get(TopicPartition(topic, partition), ()):
        queued._drain_waiter.add_done_callback(_retrieve_exception)
    metadata = await sent
    return int(metadata.offset) + int(count) - 1


def _producer(
    settings: Settings, compression: LogCompression | None, transactional_id: str | None = None
) -> AIOKafkaProducer:
    longest_write_ms = int(1_000 * WRITE_APPEND_TIMEOUTS * settings.append_timeout)
    return create_producer(
        settings,
        compression,
        linger_ms=0,
        max_batch_size=MAX_REQUEST_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
        transactional_id=transactional_id,
        # Longer than a write may take: an aborted transaction would look as if another worker had the partition.
        transaction_timeout_ms=max(TRANSACTION_TIMEOUT_MS, longest_write_ms * 3 // 2),
        # The broker ends a transaction in the background and refuses to begin the next one meanwhile: retry soon.
        retry_backoff_ms=10,
    )


@contextlib.asynccontextmanager
async def open_event_producer(
    settings: Settings, compression: LogCompression | None = None
) -> AsyncIterator[EventProducer]:
    """Start an event producer and yield it; flush and close it at the end. Raises LogUnavailable."""
    producer = _producer(settings, compression)
    await start_client(producer, settings)
    try:
        yield EventProducer(producer, settings)
    finally:
        await close_producer(producer, _EVENT_FLUSH_TIMEOUT_S)
