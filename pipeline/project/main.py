"""The role `mailfold project`: writes `email-changes` into Postgres as rows, conversions to send and next offsets.

Kafka's consumer group assigns the partitions, Postgres holds the offsets. Each partition is projected by a task of its
own, so that one that waits delays no other, and reads on only when its last batch is written, which bounds memory.
"""

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable, RoleStopped
from pipeline.project.audit import EmailAuditor
from pipeline.project.batch_joiner import BatchJoiner
from pipeline.project.compacted_topics import follow_topic
from pipeline.project.observer import ProjectObserver
from pipeline.project.older_rows import count_older_rows
from pipeline.project.partition import OutageBackoff, PartitionProjector
from pipeline.project.ticks import Ticker
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.postgres.retention import ExpiringRows, run_retention
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import AddressHasher, canonical_address, hash_address, old_hash_of
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import cancel_tasks, run_loops, run_unless
from pipeline.settings import Settings
from projections import sink, suppressions, templates
from projections.sink import ChangeBatch, Sink
from topics.registry import EMAIL_CHANGES, SUPPRESSIONS, TEMPLATES

CONSUMER_GROUP: Final = "project"
AUDITING_PARTITION: Final = 0
"""The partition whose projector audits and counts older rows, so that one of several does."""
METADATA_MAX_CHARS: Final = 500
"""Of the text that is committed with an offset; the brokers' default limit is 4096 bytes."""


def consumer_group(settings: Settings) -> str:
    """Return the name of the projectors' consumer group."""
    return settings.topic_prefix + CONSUMER_GROUP


def make_sink(settings: Settings) -> Sink:
    """Return the sink that writes into the live schema."""
    hasher = AddressHasher(secret_ring(settings))
    old_hash_address = functools.partial(_old_digest, hasher)
    return Sink(
        functools.partial(hash_address, hasher),
        crash_point,
        old_hash_address=old_hash_address,
        normalize_address=canonical_address,
    )


def _old_digest(hasher: AddressHasher, address: str) -> bytes:
    """Return the hash of earlier versions, today's where it is the same."""
    old = old_hash_of(hasher, address)
    return hash_address(hasher, address) if old is None else old.digest


async def run(rt: Runtime) -> None:
    """Project changes, templates and operators' suppression decisions, and expire identities, until ``rt.stop``."""
    observer = ProjectObserver(rt)
    compacted = (
        # A template is read whole and may have 250 kB; a decision has a few hundred bytes.
        follow_topic(rt, TEMPLATES, templates, 20, observer.report_topic_halt),
        follow_topic(rt, SUPPRESSIONS, suppressions, 2000, observer.report_topic_halt),
    )
    rt.log.require_topics(EMAIL_CHANGES)
    expiry = run_retention(rt, [expiring_identities(rt.settings)])
    auditor = EmailAuditor(rt, observer.metrics, lambda: observer.has_partition(AUDITING_PARTITION))
    counting = count_older_rows(rt, make_sink(rt.settings), lambda: observer.has_partition(AUDITING_PARTITION))
    await run_loops(_project_changes(rt, observer), *compacted, expiry, auditor.run(), counting)


def expiring_identities(settings: Settings) -> ExpiringRows:
    """Return the identities that expire: reservations of email ids, by which another recipient is refused."""
    values = {"days": settings.idempotency_days}
    return ExpiringRows("intake.identities", sink.SQL["expire_identities"], values)


async def _project_changes(rt: Runtime, observer: ProjectObserver) -> None:
    """Project `email-changes` until ``rt.stop``; wait and retry while Kafka is unavailable."""
    backoff = OutageBackoff(rt.stop, "Kafka")
    while not rt.stop.is_set():
        try:
            await _project_with_consumer(rt, backoff, observer)
        except RoleStopped:
            return
        except (KafkaError, LogUnavailable) as error:
            await backoff.wait_after_failure(error)


async def _project_with_consumer(rt: Runtime, backoff: OutageBackoff, observer: ProjectObserver) -> None:
    reader = create_consumer(
        rt.settings,
        group_id=consumer_group(rt.settings),
        session_timeout_ms=6_000,  # the brokers' minimum: a projector that is wrongly considered dead does no harm
        heartbeat_interval_ms=2_000,
        fetch_max_wait_ms=250,  # a partition that is drained while a fetch for others is in flight waits this long
    )
    projectors = PartitionProjectors(rt, reader, observer)
    ticker: asyncio.Task[None] | None = None
    try:
        await run_unless(rt.stop, start_client(reader, rt.settings))
        backoff.reset()
        observer.begin(reader, projectors.projectors)
        reader.subscribe([rt.settings.topic(EMAIL_CHANGES.name)], listener=projectors)
        ticker = asyncio.create_task(Ticker(rt).run(projectors.partitions))
        await projectors.commit_offsets_until_stopped()
    finally:
        if ticker is not None:
            ticker.cancel()
        observer.end()
        await projectors.close()
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(3):
                await reader.stop()


class PartitionProjectors(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """A projecting task per assigned partition; commits the projected offsets to the group."""

    def __init__(self, rt: Runtime, reader: AIOKafkaConsumer, observer: ProjectObserver) -> None:
        self._rt, self._reader, self._observer = rt, reader, observer
        self._sink = make_sink(rt.settings)
        self._joiner = BatchJoiner(self._write)
        self._backoff = OutageBackoff(rt.stop, "Postgres")
        self._skipped = SkippedRecords(rt.settings)
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._projected: dict[TopicPartition, int] = {}
        self.projectors: dict[TopicPartition, PartitionProjector] = {}

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Start a task for each partition. Returns at once: each task reads its start offset from Postgres."""
        self._observer.note_assigned()
        for partition in assigned:
            projector = PartitionProjector(
                *(self._rt, self._reader, self._sink, self._joiner, self._backoff, partition, self._projected),
                *(self._observer.metrics, self._observer.progress, self._skipped),
            )
            self.projectors[partition] = projector
            self._tasks[partition] = asyncio.create_task(projector.run(), name=f"project {partition.partition}")

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Stop the partitions' tasks; what isn't committed is rolled back, and the next owner reads it again."""
        await cancel_tasks([self._tasks.pop(partition) for partition in revoked if partition in self._tasks])
        await self._commit_offsets()
        for partition in revoked:
            self.projectors.pop(partition, None)
        self._observer.release(revoked)

    def partitions(self) -> set[int]:
        """Return the numbers of the partitions that are projected here."""
        return {partition.partition for partition in self._tasks}

    async def commit_offsets_until_stopped(self) -> None:
        """Commit the projected offsets to the group, for lag tools, until ``rt.stop``. Raises what ended a task."""
        while not self._rt.stop.is_set():
            await sleep_unless(self._rt.stop, 0.5)
            for task in self._tasks.values():
                if task.done():
                    task.result()
            await self._commit_offsets()

    async def close(self) -> None:
        """End every task; on an orderly stop each has 3 seconds to commit its batch."""
        tasks = list(self._tasks.values())
        if tasks and self._rt.stop.is_set():
            await asyncio.wait(tasks, timeout=3)
        await cancel_tasks(tasks)
        await self._joiner.close()
        await self._commit_offsets()

    async def _write(self, batches: Sequence[ChangeBatch]) -> None:
        """Write the batches of some partitions in one transaction."""
        async with self._rt.pool.connection() as database:
            with self._observer.metrics.project_seconds.time():
                await self._sink.apply(database, *batches)

    async def _commit_offsets(self) -> None:
        assigned = self._reader.assignment()
        offsets = {
            # The metadata tells `mailfold status`, which is another process, why a partition is halted.
            partition: (offset, self.projectors[partition].halted[:METADATA_MAX_CHARS])
            for partition, offset in self._projected.items()
            if partition in assigned
        }
        self._projected.clear()
        if offsets:
            # Only people and lag tools read these offsets, so a failure is harmless: Postgres decides.
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(3):
                    await self._reader.commit(offsets)
