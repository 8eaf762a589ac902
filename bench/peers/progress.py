"""The progress of an engine, by the offsets that its group committed or by the states that it published."""

import asyncio
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from pipeline.runtime.kafka.log import discover_partitions


class Broker:
    """Queries to the broker about groups and topics."""

    def __init__(self, bootstrap: str) -> None:
        self._admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._places: dict[str, list[TopicPartition]] = {}
        self._reader: Any = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)

    async def __aenter__(self) -> "Broker":
        await self._admin.start()
        await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
        await self._reader.stop()

    async def committed(self, group: str, topic: str) -> int:
        """Return how many records of a topic the group has committed."""
        try:
            offsets = await self._admin.list_consumer_group_offsets(group)
        except GroupCoordinatorNotAvailableError:
            return 0  # a new broker creates the topic of offsets at the first request
        return sum(max(0, found.offset) for place, found in offsets.items() if place.topic == topic)

    async def end(self, topic: str) -> int:
        """Return how many records a topic has; 0 while it does not exist."""
        if topic not in self._places:
            if topic not in await self._admin.list_topics():
                return 0
            self._places[topic] = await discover_partitions(self._reader, topic)
        places = self._places[topic]
        return sum((await self._reader.end_offsets(places)).values())

    async def members(self, group: str) -> int:
        """Return how many members a stable group has; 0 while it is not stable."""
        found = await self._described(group)
        return found[1] if found and found[0] == "Stable" else 0

    async def left(self, group: str) -> None:
        """Wait until the group has no members; some engines only leave when their session expires."""
        while (found := await self._described(group)) and found[0] not in ("Empty", "Dead"):
            await asyncio.sleep(0.1)

    async def _described(self, group: str) -> tuple[str, int] | None:
        """Return the state of a group and the number of its members; None if it cannot be read."""
        try:
            responses = await self._admin.describe_consumer_groups([group])
        except KafkaError:
            return None
        for _, _, state, _, _, members, *_ in (described for response in responses for described in response.groups):
            return state, len(members)
        return None


class Progress(Protocol):
    """The progress of an engine since it was started."""

    async def done(self) -> int:
        """Return the number of events done so far."""

    async def target(self) -> int:
        """Return the number of events that are done at the end."""


class ByCommits:
    """Progress by the offsets that the group has committed."""

    def __init__(self, broker: Broker, group: str, topic: str) -> None:
        self._broker, self._group, self._topic = broker, group, topic

    async def done(self) -> int:
        """See the protocol."""
        return await self._broker.committed(self._group, self._topic)

    async def target(self) -> int:
        """See the protocol."""
        return await self._broker.end(self._topic)


class ByStates:
    """Progress by the growth of the changelog, which gets one state per event."""

    def __init__(self, broker: Broker, group: str, topic: str, changelog: str) -> None:
        self._broker, self._group, self._topic, self._changelog = broker, group, topic, changelog
        self._began: int | None = None

    async def done(self) -> int:
        """See the protocol."""
        now = await self._broker.end(self._changelog)
        if self._began is None:
            self._began = now
        return now - self._began

    async def target(self) -> int:
        """See the protocol."""
        return await self._broker.end(self._topic) - await self._broker.committed(self._group, self._topic)
