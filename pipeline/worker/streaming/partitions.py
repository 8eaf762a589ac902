"""One writer per partition: takes folded batches in order, writes them in transactions, stores the states.

While one commit batch is being written to the log, the next one fills. A read looks into both before it asks the
store. At low load a batch waits for `MIN_TRANSACTION_INTERVAL_S` at most; the higher the load, the larger a
transaction becomes. `app` creates the writers, `transport` opens and closes them when partitions move.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from prometheus_client import Histogram

from pipeline.errors import Fenced, LogUnavailable, PartitionNotAssigned, TopicMismatch
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka.log_compression import LogCompression
from pipeline.runtime.kafka.topic_admin import read_cluster_id
from pipeline.runtime.observing.logs import bind_log_fields, get_logger
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer
from pipeline.runtime.tasks import cancel_tasks
from pipeline.settings import Settings
from pipeline.worker.streaming.commit_batch import CommitBatch, FoldResult
from pipeline.worker.streaming.producer import TransactionalProducer
from pipeline.worker.streaming.store_check import discard_other_stores
from topics.registry import EMAIL_STATES, FACT_TOPICS

MIN_TRANSACTION_INTERVAL_S: Final = 0.02
"""Seconds from the start of one transaction to the start of the next at low load: each costs this process and the
brokers a few milliseconds."""
FLUSH_MIN_RECORDS: Final = 2_000
"""Records from which on a commit batch is written without waiting for the interval."""
FENCED_TIMEOUT_S: Final = 20.0
"""Seconds in which the group must revoke a fenced partition; after that the worker restarts."""

_log = get_logger("mailfold.worker")


class PartitionWriter:
    """Writes what one partition's facts were folded to: states, changes, dead letters and offsets."""

    def __init__(
        self,
        partition: int,
        producer: TransactionalProducer,
        store: Any,
        app: Any,
        transaction_seconds: Histogram,
        *,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.partition = partition
        self._producer = producer
        self._store = store
        self._app = app
        self._transaction_seconds = transaction_seconds
        self._tracer = tracer
        self._filling, self._in_flight = CommitBatch(), CommitBatch()
        self._has_work, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._is_open = True
        self._task = asyncio.create_task(self._run(), name=f"partition writer {partition}")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Return the states as they will be once everything is written. Raises PartitionNotAssigned."""
        states: dict[bytes, bytes | None] = {}
        stored_keys = []
        filling, in_flight = self._filling.states, self._in_flight.states
        for key in keys:
            if key in filling:  # not `get`: None stands for a state that is being removed
                states[key] = filling[key]
            elif key in in_flight:
                states[key] = in_flight[key]
            else:
                stored_keys.append(key)
        if stored_keys:
            states.update(zip(stored_keys, self._store.read(self.partition, stored_keys), strict=True))
        return states

    async def wait_for_room(self) -> bool:
        """Wait until another batch may be added; return False if this writer is closed."""
        await self._has_room.wait()
        return self._is_open

    def add(self, message: Any, result: FoldResult) -> None:
        """Queue a batch's result; results are written in the order of the calls."""
        self._filling.add(message, result)
        if self._tracer.is_on:
            self._filling.add_traced(self._tracer.traced_keys(message.value.span.records))
        if self._filling.is_full():
            self._has_room.clear()
        self._has_work.set()

    def expire(self, keys: Iterable[bytes]) -> int:
        """Remove these states from the table, except those with an unwritten update; return how many.

        Do not await between reading the states and calling this: a state that is folded in between would be lost.
        """
        if not self._is_open:
            return 0
        filling, in_flight = self._filling.states, self._in_flight.states
        removed = dict.fromkeys(key for key in keys if key not in filling and key not in in_flight)
        if removed:
            filling |= removed
            self._has_work.set()
        return len(removed)

    async def close(self) -> None:
        """Stop writing and discard what is not written; the partition's next owner fetches it again."""
        self._discard_unwritten()
        await cancel_tasks([self._task])
        await self._producer.close()

    async def _run(self) -> None:
        bind_log_fields(partition=self.partition)
        started_at = -MIN_TRANSACTION_INTERVAL_S
        try:
            while self._is_open:
                await self._has_work.wait()
                pause = started_at + MIN_TRANSACTION_INTERVAL_S - self._app.loop.time()
                if pause > 0 and self._filling.record_count < FLUSH_MIN_RECORDS:
                    await asyncio.sleep(pause)
                started_at = self._app.loop.time()
                self._in_flight, self._filling = self._filling, CommitBatch()
                self._has_work.clear()
                self._has_room.set()
                await self._write(self._in_flight)
        except Fenced:
            await self._wait_for_revocation()
        except Exception as error:
            self._discard_unwritten()
            await self._app.crash(error)

    async def _write(self, batch: CommitBatch) -> None:
        """Write a batch to the log, then its states to the store, then finish its messages."""
        contexts, attributes, started_at_ns = batch.causes(self.partition)
        with (
            self._transaction_seconds.time(),
            self._tracer.span("fold", "consumer", contexts, attributes, started_at_ns) as span,
        ):
            traces: dict[bytes | None, str] = dict.fromkeys((key for key, _ in batch.traced), span.traceparent)
            ends = await self._producer.write(batch.writes(self.partition), batch.offsets(), traces)
        if not self._is_open:  # the store belongs to another writer now, which recovers these states from the log
            return
        crash_point("fold.before-store")
        if batch.states:
            try:
                self._store.write(self.partition, batch.states, ends[EMAIL_STATES.name, self.partition])
            except PartitionNotAssigned:
                # Shutdown waits for facts, not for tombstones: the store is closed and recovers these from the log.
                if batch.messages:
                    raise
        self._in_flight = CommitBatch()
        crash_point("fold.before-ack")
        for message in batch.messages:
            self._app.consumer.mark_committed(message)

    async def _wait_for_revocation(self) -> None:
        """Wait for the group to revoke the partition, which closes this writer; crash if it never does."""
        _log.warning("partition fenced: another worker has it; releasing it")
        self._discard_unwritten()
        await asyncio.sleep(FENCED_TIMEOUT_S)
        await self._app.crash(
            LogUnavailable(
                f"fenced from partition {self.partition}, and the group did not revoke it in {FENCED_TIMEOUT_S} s"
            )
        )

    def _discard_unwritten(self) -> None:
        self._is_open = False
        self._has_room.set()
        for message in self._filling.messages + self._in_flight.messages:
            self._app.consumer.discard(message)
        self._filling, self._in_flight = CommitBatch(), CommitBatch()


class PartitionWriters:
    """The writers of the partitions that are assigned to this worker."""

    def __init__(
        self,
        settings: Settings,
        app: Any,
        store: Any,
        transaction_seconds: Histogram,
        *,
        compression: LogCompression | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._settings = settings
        self._compression = compression
        self._tracer = tracer
        self._transaction_seconds = transaction_seconds
        self._app = app
        self._store = store
        self._writers: dict[int, PartitionWriter] = {}
        self._cluster_id = ""
        self.topics = frozenset(settings.topic(topic.name) for topic in FACT_TOPICS)
        """Topics whose offsets are committed in the transaction that writes their results."""
        self._copartitioned = self.topics | {settings.topic(EMAIL_STATES.name)}

    def __getitem__(self, partition: int) -> PartitionWriter:
        """Return the partition's writer. Raises PartitionNotAssigned."""
        try:
            return self._writers[partition]
        except KeyError:
            raise PartitionNotAssigned(f"partition {partition} is another worker's now") from None

    def __iter__(self) -> Iterator[PartitionWriter]:
        """Iterate over a copy of the current writers."""
        return iter(list(self._writers.values()))

    async def take_over(self, assigned: Iterable[Any]) -> None:
        """Open a writer per assigned partition, which fences the earlier owners.

        Stores of another log, or ahead of this one, are removed first. Raises LogUnavailable, and TopicMismatch where
        only some topics of a partition are assigned.
        """
        await self.close()
        producers = {
            number: TransactionalProducer(self._settings, self._app.conf.id, number, self._compression)
            for number in self._partition_numbers(assigned)
        }
        await asyncio.gather(*(producer.open() for producer in producers.values()))
        self._cluster_id = self._cluster_id or await read_cluster_id(self._settings)
        await discard_other_stores(self._settings, self._store, assigned, self._cluster_id)
        self._writers = {
            number: PartitionWriter(
                number, producer, self._store, self._app, self._transaction_seconds, tracer=self._tracer
            )
            for number, producer in producers.items()
        }

    async def release(self, revoked: Iterable[Any]) -> None:
        """Close the writers of partitions that move to another worker."""
        numbers = {tp.partition for tp in revoked if tp.topic in self.topics} & self._writers.keys()
        await asyncio.gather(*(self._writers.pop(number).close() for number in numbers))

    async def close(self) -> None:
        """Close all writers."""
        writers, self._writers = self._writers, {}
        await asyncio.gather(*(writer.close() for writer in writers.values()))

    def _partition_numbers(self, assigned: Iterable[Any]) -> set[int]:
        """Return the partition numbers; an email's facts of all topics and its state need the same worker."""
        topics: dict[int, set[str]] = defaultdict(set)
        for tp in assigned:
            if tp.topic in self._copartitioned:
                topics[tp.partition].add(tp.topic)
        split = sorted(number for number, names in topics.items() if names != self._copartitioned)
        if split:
            raise TopicMismatch(f"facts and states of partitions {split} are assigned to different workers")
        return set(topics)
