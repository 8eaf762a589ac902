"""Wait until a role has read its topics to the end, before a test reads the role's results."""

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from pipeline.settings import Settings

Offsets = dict[tuple[str, int], int]


class CaughtUp:
    """A reader of the roles' positions with its own clients, independent of the roles' code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def group(self, group: str, *topics: str, patience: float = 30.0) -> None:
        """Wait until a Kafka group has committed the end of each topic; names, also the group's, have no prefix."""
        await self._until(lambda: self._committed(self._settings.topic_prefix + group), topics, group, patience)

    async def projector(self, patience: float = 30.0) -> None:
        """Wait until the projector's next offsets are the end of `email-changes`."""
        query = "select topic, partition, next_offset from projections.next_offsets"
        await self._until(lambda: self._rows(query), ("email-changes",), "project", patience)

    async def queue(self, queue: str, *topics: str, patience: float = 30.0) -> None:
        """Wait until the intake of a job queue has read its topics."""
        query = f"select topic, partition, next_offset from jobs.next_offsets where queue = '{queue}'"
        await self._until(lambda: self._rows(query), topics, queue, patience)

    async def correlation(self, patience: float = 30.0) -> None:
        """Wait until correlation has read the acks and the uncorrelated events."""
        query = "select topic, partition, next_offset from correlation.next_offsets"
        topics = ("provider-acks", "uncorrelated-events")
        await self._until(lambda: self._rows(query), topics, "correlation", patience)

    async def _until(self, read: Any, topics: tuple[str, ...], reader: str, patience: float) -> None:
        deadline = asyncio.get_running_loop().time() + patience
        while lagging := _lagging_partitions(await self._ends(topics), await read()):
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{reader} lags: " + ", ".join(lagging))
            await asyncio.sleep(0.1)

    async def _ends(self, topics: tuple[str, ...]) -> Offsets:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        try:
            partitions = [
                TopicPartition(self._settings.topic(topic), number)
                for topic in topics
                for number in await self._partitions(consumer, topic)
            ]
            ends = await consumer.end_offsets(partitions)
        finally:
            await consumer.stop()
        prefix = len(self._settings.topic_prefix)
        return {(place.topic[prefix:], place.partition): end for place, end in ends.items()}

    async def _partitions(self, consumer: AIOKafkaConsumer, topic: str) -> list[int]:
        name = self._settings.topic(topic)
        await consumer.topics()
        while not (partitions := consumer.partitions_for_topic(name)):
            consumer.subscribe([name])
            await asyncio.sleep(0.05)
        return sorted(partitions)

    async def _committed(self, group: str) -> Offsets:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._settings.kafka_bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(group)
        except GroupCoordinatorNotAvailableError:  # until the first group of a new broker
            return {}
        finally:
            await admin.close()
        prefix = len(self._settings.topic_prefix)
        return {(place.topic[prefix:], place.partition): row.offset for place, row in offsets.items()}

    async def _rows(self, query: str) -> Offsets:
        url = self._settings.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url) as connection:
            rows = await (await connection.execute(query)).fetchall()  # type: ignore[arg-type,unused-ignore]
        return {(topic, partition): offset for topic, partition, offset in rows}


def _lagging_partitions(ends: Mapping[tuple[str, int], int], read: Mapping[tuple[str, int], int]) -> list[str]:
    # The end may be after the last record, because of transaction markers, but a reader's position passes these, too.
    return [
        f"{topic}/{partition} at {read.get((topic, partition), 0)} of {end}"
        for (topic, partition), end in sorted(ends.items())
        if end and read.get((topic, partition), 0) < end
    ]
