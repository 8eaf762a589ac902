"""Read how far each role has read its topics, from Kafka and Postgres.

`mailfold status` and the preconditions of `mailfold renormalize` call it.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from pipeline.dispatch.correlation.parked import SQL as CORRELATION
from pipeline.errors import LogUnavailable
from pipeline.project.main import consumer_group
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_admin, create_consumer, start_client
from projections.history_queries import SQL
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES, FACT_TOPICS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, Topic

WORKER_GROUP: Final = "mailfold"
"""The id of the Faust application, which is its consumer group."""
COORDINATOR_TIMEOUT_S: Final = 10.0
READ_TOPICS: Final = (*FACT_TOPICS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, EMAIL_CHANGES, DEAD_LETTERS)

PartitionOffsets = dict[tuple[str, int], int]
"""An offset by topic and partition."""


class LagSnapshot(msgspec.Struct, frozen=True):
    """The offsets of the topics and of their readers at one moment."""

    beginnings: PartitionOffsets
    ends: PartitionOffsets
    next_offsets: Mapping[str, PartitionOffsets]
    """The next offsets of each role. `correlation` is the loop of dispatch that correlates events with emails."""
    halted: Mapping[int, str] = {}
    """Why the projector does not go on with a partition of `email-changes`, by the partition's number."""


async def read_lag(rt: Runtime) -> LagSnapshot:
    """Return the current offsets of all topics and roles. Raise LogUnavailable."""
    reader = create_consumer(rt.settings)
    await start_client(reader, rt.settings)
    try:
        beginnings, ends = await _read_bounds(rt, reader, READ_TOPICS)
    finally:
        await reader.stop()
    worker_offsets, halted = await _read_groups(rt)
    next_offsets = {"worker": worker_offsets}
    async with rt.pool.connection() as connection:
        tables = {
            "project": SQL["projected"],
            "dispatch": SQL["dispatched"],
            "correlation": CORRELATION["next_offsets"],
        }
        for role, query in tables.items():
            rows = await (await connection.execute(query)).fetchall()
            next_offsets[role] = {(row[0], row[1]): row[2] for row in rows}
    return LagSnapshot(beginnings, ends, next_offsets, halted)


def lag_of(snapshot: LagSnapshot, role: str, topic: Topic, ends: PartitionOffsets | None = None) -> int:
    """Return how many offsets of a topic a role has still to read, up to ``ends``, or to those of the snapshot.

    A role without an offset starts at the beginning of the partition.
    """
    next_offsets = snapshot.next_offsets[role]
    return sum(
        max(0, end - max(next_offsets.get(partition, 0), snapshot.beginnings[partition]))
        for partition, end in (ends or snapshot.ends).items()
        if partition[0] == topic.name
    )


async def _read_bounds(
    rt: Runtime, reader: AIOKafkaConsumer, topics: tuple[Topic, ...]
) -> tuple[PartitionOffsets, PartitionOffsets]:
    """Return the first and the end offsets of all partitions of these topics."""
    prefix = len(rt.settings.topic_prefix)
    partitions = [
        TopicPartition(rt.settings.topic(topic.name), number)
        for topic in topics
        for number in range(1 if topic.has_one_partition else rt.settings.partitions)
    ]
    reader.assign(partitions)
    beginnings = await reader.beginning_offsets(partitions)
    ends = await reader.end_offsets(partitions)

    def without_prefix(offsets: Any) -> PartitionOffsets:
        return {(partition.topic[prefix:], partition.partition): offset for partition, offset in offsets.items()}

    return without_prefix(beginnings), without_prefix(ends)


async def _read_groups(rt: Runtime) -> tuple[PartitionOffsets, dict[int, str]]:
    """Return the offsets that the worker has committed, and why the projector has halted, by partition."""
    client = create_admin(rt.settings)
    await start_client(client, rt.settings)
    try:
        offsets = await _group_offsets(client, rt.settings.topic_prefix + WORKER_GROUP)
        projected = await _group_offsets(client, consumer_group(rt.settings))
    finally:
        await client.close()
    prefix = len(rt.settings.topic_prefix)
    committed = {
        (partition.topic[prefix:], partition.partition): row.offset
        for partition, row in offsets.items()
        if row.offset >= 0
    }
    return committed, {partition.partition: row.metadata for partition, row in projected.items() if row.metadata}


async def _group_offsets(client: AIOKafkaAdminClient, group: str) -> Any:
    """Return the committed offsets of a consumer group, retrying while no coordinator is available.

    A new cluster creates its offsets topic at the first request and has no coordinator until then. Raise LogUnavailable
    after COORDINATOR_TIMEOUT_S.
    """
    try:
        async with asyncio.timeout(COORDINATOR_TIMEOUT_S):
            while True:
                with contextlib.suppress(GroupCoordinatorNotAvailableError):
                    return await client.list_consumer_group_offsets(group)
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise LogUnavailable(f"Kafka names no coordinator for the group {group}") from None
