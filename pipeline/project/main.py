"""The projector: `email-changes` in; rows, debts and next offsets in Postgres out. A plain loop per partition.

Kafka's group says who reads what; Postgres says how far. Each partition has a lane of its own, so
that one that waits holds up no other. A lane reads on only when its run is written: what is in
hand is bounded.
"""

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.project.compacted_topics import follow_topic
from pipeline.project.partition import OutageBackoff, PartitionProjector
from pipeline.project.ticks import Ticker
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka import create_consumer
from pipeline.runtime.signing import Signer, hash_address, old_hash_of
from pipeline.runtime.sleep import sleep_unless
from pipeline.settings import Settings
from projections import suppressions, templates
from projections.sink import Sink
from topics.registry import EMAIL_CHANGES, SUPPRESSIONS, TEMPLATES

CONSUMER_GROUP: Final = "project"


def consumer_group(settings: Settings) -> str:
    """The projectors' consumer group."""
    return settings.topic_prefix + CONSUMER_GROUP


def make_sink(settings: Settings) -> Sink:
    """The live sink."""
    signer = Signer(settings.secret.get_secret_value(), "address")
    old = functools.partial(_old_digest, signer)
    return Sink(functools.partial(hash_address, signer), crash_point, old_hash_address=old)


def _old_digest(signer: Signer, address: str) -> bytes:
    """Return the hash of earlier versions, today's where it is the same."""
    old = old_hash_of(signer, address)
    return hash_address(signer, address) if old is None else old.digest


async def run(rt: Runtime) -> None:
    """Project until told to stop: changes, and beside them templates and what operators decided of addresses."""
    # A template is read whole and may have 250 kB; a decision has a few hundred bytes.
    beside = (follow_topic(rt, TEMPLATES, templates, 20), follow_topic(rt, SUPPRESSIONS, suppressions, 2000))
    await asyncio.gather(_project(rt), *beside)


async def _project(rt: Runtime) -> None:
    """A Kafka that went away is waited for."""
    patience = OutageBackoff(rt.stop, "Kafka")
    while not rt.stop.is_set():
        try:
            await _with_consumer(rt, patience)
        except KafkaError as error:
            await patience.wait_after_failure(error)


async def _with_consumer(rt: Runtime, patience: "OutageBackoff") -> None:
    reader = create_consumer(
        rt.settings,
        group_id=consumer_group(rt.settings),
        session_timeout_ms=6_000,  # the least that brokers take: a projector wrongly thought dead can do no harm
        heartbeat_interval_ms=2_000,
        fetch_max_wait_ms=100,  # a partition drained while a fetch for the others is under way waits this long
    )
    lanes = PartitionProjectors(rt, reader)
    ticking: asyncio.Task[None] | None = None
    try:
        await reader.start()
        patience.reset()
        reader.subscribe([rt.settings.topic(EMAIL_CHANGES.name)], listener=lanes)
        ticking = asyncio.create_task(Ticker(rt).run(lanes.partitions))
        await lanes.commit_offsets_until_stopped()
    finally:
        if ticking is not None:
            ticking.cancel()
        await lanes.close()
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(3):
                await reader.stop()


class PartitionProjectors(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """A task per partition that the group gave us, and what the group is told."""

    def __init__(self, rt: Runtime, reader: AIOKafkaConsumer) -> None:
        self._rt, self._reader = rt, reader
        self._sink = make_sink(rt.settings)
        self._patience = OutageBackoff(rt.stop, "Postgres")
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._projected: dict[TopicPartition, int] = {}

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Begin to read these. Returns at once: where to begin, each lane asks Postgres itself."""
        for partition in assigned:
            lane = PartitionProjector(self._rt, self._reader, self._sink, self._patience, partition, self._projected)
            self._tasks[partition] = asyncio.create_task(lane.run(), name=f"project {partition.partition}")

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Let go: what isn't committed yet is rolled back, and whoever comes next reads it again."""
        await self._end([self._tasks.pop(partition) for partition in revoked if partition in self._tasks])
        await self._tell_group()

    def partitions(self) -> set[int]:
        """Those that are read here."""
        return {partition.partition for partition in self._tasks}

    async def commit_offsets_until_stopped(self) -> None:
        """Commit to the group what Postgres already has, for the lag tools; until stopped or a lane breaks."""
        while not self._rt.stop.is_set():
            await sleep_unless(self._rt.stop, 0.5)
            for task in self._tasks.values():
                if task.done():
                    task.result()
            await self._tell_group()

    async def close(self) -> None:
        """End every lane; what is in hand gets a moment to be committed."""
        tasks = list(self._tasks.values())
        if tasks and self._rt.stop.is_set():
            await asyncio.wait(tasks, timeout=3)
        await self._end(tasks)
        await self._tell_group()

    async def _end(self, tasks: Sequence["asyncio.Task[None]"]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell_group(self) -> None:
        mine = self._reader.assignment()
        told = {partition: offset for partition, offset in self._projected.items() if partition in mine}
        self._projected.clear()
        if told:
            # For people and their tools only, so a failure is nothing: Postgres is the truth.
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(3):
                    await self._reader.commit(told)
