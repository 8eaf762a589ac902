"""Reset the cluster between runs: the input is kept, everything else is as if no engine had run yet."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES, EMAIL_STATES

WRITTEN = (EMAIL_STATES, EMAIL_CHANGES, DEAD_LETTERS)


async def forget(settings: Settings, patience: float = 60.0) -> None:
    """Recreate the topics that our worker writes, and reset the offsets of its group to the beginning."""
    names = [settings.topic(topic.name) for topic in WRITTEN]
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        async with asyncio.timeout(patience):
            await admin.delete_topics(names)
            while set(names) & set(await admin.list_topics()):
                await asyncio.sleep(0.1)
            group = f"{settings.topic_prefix}mailfold"
            await _rewind(settings.kafka_bootstrap, group, await _read(admin, group))
    finally:
        await admin.close()
    await topic_admin.create(settings)


async def sweep(settings: Settings) -> None:
    """Delete the topics that the peers wrote: a million states of each would fill a small disk."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        theirs = [name for name in await admin.list_topics() if not name.startswith((settings.topic_prefix, "__"))]
        if theirs:
            await admin.delete_topics(theirs)
    finally:
        await admin.close()


async def _read(admin: Any, group: str) -> list[Any]:
    """Return the partitions for which the group has committed offsets."""
    while True:
        try:
            return list(await admin.list_consumer_group_offsets(group))
        except GroupCoordinatorNotAvailableError:
            await asyncio.sleep(0.1)  # a new broker creates the topic of offsets at the first request


async def _rewind(bootstrap: str, group: str, places: list[Any]) -> None:
    """Commit offset 0 for these partitions, retrying until the group has no members.

    Kafka accepts offsets from outside only then, so the session of the last worker may have to expire first.
    """
    if not places:
        return
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await reader.start()
    try:
        reader.assign(places)
        while True:
            try:
                await reader.commit(dict.fromkeys(places, 0))
            except KafkaError:
                await asyncio.sleep(0.2)
            else:
                return
    finally:
        await reader.stop()
