"""A group in, how far it is out: by what it committed, or by the states it published."""

import asyncio
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from pipeline.runtime.kafka import discover_partitions


class Broker:
    """What the broker knows."""

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
        """How many of a topic's records the group is past."""
        try:
            offsets = await self._admin.list_consumer_group_offsets(group)
        except GroupCoordinatorNotAvailableError:
            return 0  # a fresh broker makes the topic for this on first asking
        return sum(max(0, found.offset) for place, found in offsets.items() if place.topic == topic)

    async def end(self, topic: str) -> int:
        """How many records lie on a topic; 0 while it isn't there."""
        if topic not in self._places:
            if topic not in await self._admin.list_topics():
                return 0
            self._places[topic] = await discover_partitions(self._reader, topic)
        places = self._places[topic]
        return sum((await self._reader.end_offsets(places)).values())

    async def members(self, group: str) -> int:
        """How many members a settled group has; 0 while it is not settled."""
        found = await self._described(group)
        return found[1] if found and found[0] == "Stable" else 0

    async def left(self, group: str) -> None:
        """Wait until nobody is in the group: some engines leave by letting their session run out."""
        while (found := await self._described(group)) and found[0] not in ("Empty", "Dead"):
            await asyncio.sleep(0.1)

    async def _described(self, group: str) -> tuple[str, int] | None:
        """A group's state and how many are in it."""
        try:
            responses = await self._admin.describe_consumer_groups([group])
        except KafkaError:
            return None
        for _, _, state, _, _, members, *_ in (described for response in responses for described in response.groups):
            return state, len(members)
        return None


class Progress(Protocol):
    """How far an engine is since it was started."""

    async def done(self) -> int:
        """Events done so far."""

    async def target(self) -> int:
        """Events done when it is through."""


class ByCommits:
    """What counts is what the group has committed."""

    def __init__(self, broker: Broker, group: str, topic: str) -> None:
        self._broker, self._group, self._topic = broker, group, topic

    async def done(self) -> int:
        """See the protocol."""
        return await self._broker.committed(self._group, self._topic)

    async def target(self) -> int:
        """See the protocol."""
        return await self._broker.end(self._topic)


class ByStates:
    """Each event publishes one state, so the changelog's growth tells what the commits don't."""

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
