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
from pipeline.runtime.kafka import consumer
from projections.postgres import SQL
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES, FACTS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, Topic

WORKER_GROUP: Final = "mailfold"
"""The Faust application's id."""
PATIENCE_S: Final = 10.0
READ: Final = (*FACTS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, EMAIL_CHANGES, DEAD_LETTERS)

Ends = dict[tuple[str, int], int]
"""Topic and partition -> an offset."""


class Look(msgspec.Struct, frozen=True):
    """One look at the log and its readers."""

    beginnings: Ends
    ends: Ends
    read: Mapping[str, Ends]
    """Role -> next offsets. `correlation` is the loop beside dispatch that tells events of their emails."""


async def look(rt: Runtime) -> Look:
    """Look once."""
    reader = consumer(rt.settings)
    await reader.start()
    try:
        beginnings, ends = await _ends(rt, reader, READ)
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
    return Look(beginnings, ends, read)


def behind(seen: Look, role: str, topic: Topic, ends: Ends | None = None) -> int:
    """What is between a role's next offsets (the log's beginning, where it has none) and the end, or given ends."""
    read = seen.read[role]
    return sum(
        max(0, end - max(read.get(place, 0), seen.beginnings[place]))
        for place, end in (ends or seen.ends).items()
        if place[0] == topic.name
    )


async def _ends(rt: Runtime, reader: AIOKafkaConsumer, read: tuple[Topic, ...]) -> tuple[Ends, Ends]:
    prefix = len(rt.settings.topic_prefix)
    partitions = [
        TopicPartition(rt.settings.topic(topic.name), number)
        for topic in read
        for number in range(1 if topic.single else rt.settings.partitions)
    ]
    reader.assign(partitions)
    beginnings = await reader.beginning_offsets(partitions)
    ends = await reader.end_offsets(partitions)

    def plain(offsets: Any) -> Ends:
        return {(place.topic[prefix:], place.partition): offset for place, offset in offsets.items()}

    return plain(beginnings), plain(ends)


async def _committed(rt: Runtime) -> Ends:
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
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(GroupCoordinatorNotAvailableError):
                    return await client.list_consumer_group_offsets(group)
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise LogUnavailable(f"Kafka names no coordinator for the group {group}") from None
