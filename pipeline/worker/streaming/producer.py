"""What the worker writes: records for named partitions in, confirmed by all in-sync replicas or an error out.

`Outlet` is for what may be written twice (events with deterministic ids). `Gate` is one
partition's transactional producer: states, changes, dead letters and the offsets of the facts they
came from become readable together or not at all, and opening it fences whoever held it before.
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
from pipeline.runtime.kafka import MAX_REQUEST_BYTES, running_producer
from pipeline.runtime.partitioner import partition_of_key
from pipeline.settings import Settings
from pipeline.webhooks.normalize import EncodedRecord
from topics.registry import TOPICS, Topic

KeyValuePairs = Iterable[tuple[bytes | None, bytes | None]]
"""Keys and values; None for a value is a tombstone."""
PartitionWrites = Mapping[tuple[Topic, int], KeyValuePairs]
"""By topic and partition: a state and its change land where their facts came from."""

_TOPICS: Final = {topic.name: topic for topic in TOPICS}

EndOffsets = dict[tuple[str, int], int]

TRANSACTION_TIMEOUT_MS: Final = 15_000
"""A worker that vanished without a successor hides the topics' ends from their readers no longer than this."""
_FENCED_ERRORS: Final = (ProducerFenced, InvalidProducerEpoch, InvalidTxnState)
_START_TIMEOUT_S: Final = 30.0


class EventProducer:
    """The worker's plain producer."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._settings = settings
        self._turn = itertools.count()

    async def append(self, outputs: Sequence[EncodedRecord]) -> None:
        """Append all, each to its key's partition. Raises LogUnavailable."""
        if not outputs:
            return
        writes: dict[tuple[Topic, int], list[tuple[bytes | None, bytes | None]]] = defaultdict(list)
        for output in outputs:
            key = None if output.key is None else output.key.encode()
            topic = _TOPICS[output.topic]
            writes[topic, self._partition(topic, key)].append((key, output.value))
        await _confirmed(_write(self._producer, self._settings, writes), self._settings)

    def _partition(self, topic: Topic, key: bytes | None) -> int:
        if topic.has_one_partition or key is None:
            return 0 if topic.has_one_partition else next(self._turn) % self._settings.partitions
        return partition_of_key(key, self._settings.partitions)


class TransactionalProducer:
    """The one way out of a partition: a producer with the partition's transactional id."""

    def __init__(self, settings: Settings, group: str, partition: int) -> None:
        self._settings = settings
        self._group = group
        self._producer = _producer(settings, f"{group}-{partition}")

    async def open(self) -> None:
        """End whatever a predecessor has under way, and lock it out for good. Raises LogUnavailable."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._producer.start()
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise LogUnavailable(f"no transactions on this cluster now: {error!r}") from error

    async def write(self, writes: PartitionWrites, offsets: Mapping[Any, int]) -> EndOffsets:
        """One transaction; the last offset per topic and partition. Raises Fenced, LogUnavailable."""
        return await _confirmed(self._transaction(writes, offsets), self._settings)

    async def _transaction(self, writes: PartitionWrites, offsets: Mapping[Any, int]) -> EndOffsets:
        await self._producer.begin_transaction()
        self._hear_the_end()
        sent = _write(self._producer, self._settings, writes)
        added = self._add(offsets)
        # Both to the end, whatever becomes of one: aiokafka's futures complain when nobody asks them.
        outcomes = await asyncio.gather(sent, added, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        crash_point("fold.in-transaction")
        await self._producer.commit_transaction()
        return cast("EndOffsets", outcomes[0])

    async def _add(self, offsets: Mapping[Any, int]) -> None:
        """Of tombstones alone there are none, and aiokafka refuses an empty commit."""
        if offsets:
            await self._producer.send_offsets_to_transaction(dict(offsets), self._group)

    async def close(self) -> None:
        """Let go; what is not committed is aborted by whoever opens it next."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1):
                await self._producer.stop()
        self._hear_the_end()

    def _hear_the_end(self) -> None:
        """Ask the transaction's own future: it tells of a failure once more, and complains otherwise.

        There may be two, so it is done at both ends: aiokafka makes another one for what fails after a failure.
        """
        end = self._producer._txn_manager.wait_for_transaction_end()
        if end is not None:
            end.add_done_callback(_heard)


def _heard(end: "asyncio.Future[Any]") -> None:
    if not end.cancelled():
        end.exception()


async def _confirmed(writing: Coroutine[Any, Any, EndOffsets], settings: Settings) -> EndOffsets:
    """In time, or LogUnavailable; Fenced where somebody else was let in meanwhile.

    In two halves, because a process that was frozen finds all its time gone when it wakes, and could
    not hear what the broker has to say to it.
    """
    task = asyncio.ensure_future(writing)
    try:
        for _ in range(2):
            await asyncio.wait({task}, timeout=settings.append_timeout / 2)
        if task.done():
            return task.result()
    except (KafkaError, AssertionError) as error:  # aiokafka asserts its transactions' states
        if _is_fenced(error):
            raise Fenced from error
        raise LogUnavailable(f"the log did not confirm in time: {error!r}") from error
    finally:
        task.cancel()
    raise LogUnavailable(f"the log did not confirm in time: {settings.append_timeout} s")


def _is_fenced(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _FENCED_ERRORS):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _write(producer: Any, settings: Settings, writes: PartitionWrites) -> EndOffsets:
    ends = await asyncio.gather(*(_run(producer, settings, place, pairs) for place, pairs in writes.items()))
    return dict(zip([(topic.name, number) for topic, number in writes], ends, strict=True))


async def _run(producer: Any, settings: Settings, place: tuple[Topic, int], pairs: KeyValuePairs) -> int:
    """One Kafka batch after the other, so that a partition's records keep their order."""
    topic, end = settings.topic(place[0].name), -1
    batch: Any = producer.create_batch()
    for key, value in pairs:
        if batch.append(key=key, value=value, timestamp=None) is None:
            end = await _send(producer, batch, topic, place[1])
            batch = producer.create_batch()
            if batch.append(key=key, value=value, timestamp=None) is None:
                raise LogUnavailable(f"a record of {len(value or b'')} bytes fits in no batch of {topic}")
    return await _send(producer, batch, topic, place[1]) if batch.record_count() else end


async def _send(producer: Any, batch: Any, topic: str, partition: int) -> int:
    count = batch.record_count()
    sent = await producer.send_batch(batch, topic, partition=partition)
    # A batch that fails before it left tells those who wait for its leaving, too, and complains where nobody does.
    for waiting in producer._message_accumulator._batches.get(TopicPartition(topic, partition), ()):
        waiting._drain_waiter.add_done_callback(_heard)
    confirmed = await sent
    return int(confirmed.offset) + int(count) - 1


def _producer(settings: Settings, transactional_id: str | None = None) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=MAX_REQUEST_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        # The broker ends a transaction by and by, and says so to whoever begins the next one meanwhile: ask again soon.
        retry_backoff_ms=10,
    )


@contextlib.asynccontextmanager
async def open_event_producer(settings: Settings) -> AsyncIterator[EventProducer]:
    """A started outlet; closed at the end, bounded in time."""
    producer = _producer(settings)
    async with running_producer(producer, settings, 3):
        yield EventProducer(producer, settings)
