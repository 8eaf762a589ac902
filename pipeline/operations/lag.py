"""Where each role is in its topics and where these end: Kafka's and Postgres' answers in, one value out."""

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
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import create_consumer
from projections.postgres import SQL
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES, FACT_TOPICS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, Topic

WORKER_GROUP: Final = "mailfold"
"""The Faust application's id."""
COORDINATOR_TIMEOUT_S: Final = 10.0
READ_TOPICS: Final = (*FACT_TOPICS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, EMAIL_CHANGES, DEAD_LETTERS)

PartitionOffsets = dict[tuple[str, int], int]
"""Topic and partition -> an offset."""


class LagSnapshot(msgspec.Struct, frozen=True):
    """One look at the log and its readers."""

    beginnings: PartitionOffsets
    ends: PartitionOffsets
    next_offsets: Mapping[str, PartitionOffsets]
    """Role -> next offsets. `correlation` is the loop beside dispatch that tells events of their emails."""


async def read_lag(rt: Runtime) -> LagSnapshot:
    """Look once."""
    reader = create_consumer(rt.settings)
    await reader.start()
    try:
        beginnings, ends = await _ends(rt, reader, READ_TOPICS)
    finally:
        await reader.stop()
    read = {"worker": await _committed(rt)}
    async with rt.pool.connection() as connection:
        tables = {
            "project": SQL["projected"],
            "dispatch": SQL["dispatched"],
            "correlation": CORRELATION["next_offsets"],
        }
        for role, query in tables.items():
            rows = await (await connection.execute(query)).fetchall()
            read[role] = {(row[0], row[1]): row[2] for row in rows}
    return LagSnapshot(beginnings, ends, read)


def lag_of(seen: LagSnapshot, role: str, topic: Topic, ends: PartitionOffsets | None = None) -> int:
    """What is between a role's next offsets (the log's beginning, where it has none) and the end, or given ends."""
    read = seen.next_offsets[role]
    return sum(
        max(0, end - max(read.get(place, 0), seen.beginnings[place]))
        for place, end in (ends or seen.ends).items()
        if place[0] == topic.name
    )


async def _ends(
    rt: Runtime, reader: AIOKafkaConsumer, read: tuple[Topic, ...]
) -> tuple[PartitionOffsets, PartitionOffsets]:
    prefix = len(rt.settings.topic_prefix)
    partitions = [
        TopicPartition(rt.settings.topic(topic.name), number)
        for topic in read
        for number in range(1 if topic.has_one_partition else rt.settings.partitions)
    ]
    reader.assign(partitions)
    beginnings = await reader.beginning_offsets(partitions)
    ends = await reader.end_offsets(partitions)

    def plain(offsets: Any) -> PartitionOffsets:
        return {(place.topic[prefix:], place.partition): offset for place, offset in offsets.items()}

    return plain(beginnings), plain(ends)


async def _committed(rt: Runtime) -> PartitionOffsets:
    client = AIOKafkaAdminClient(bootstrap_servers=rt.settings.kafka_bootstrap)
    await client.start()
    try:
        offsets = await _of_group(client, rt.settings.topic_prefix + WORKER_GROUP)
    finally:
        await client.close()
    prefix = len(rt.settings.topic_prefix)
    return {(place.topic[prefix:], place.partition): row.offset for place, row in offsets.items() if row.offset >= 0}


async def _of_group(client: AIOKafkaAdminClient, group: str) -> Any:
    """A cluster that never had a group makes room for groups when it is first asked, and says so meanwhile."""
    try:
        async with asyncio.timeout(COORDINATOR_TIMEOUT_S):
            while True:
                with contextlib.suppress(GroupCoordinatorNotAvailableError):
                    return await client.list_consumer_group_offsets(group)
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise LogUnavailable(f"Kafka names no coordinator for the group {group}") from None
