"""A cluster in, the same cluster out as the worker would find it on its first day: its input there, nothing read."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from pipeline.runtime import topic_admin
from pipeline.settings import Settings
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES, EMAIL_STATES

WRITTEN = (EMAIL_STATES, EMAIL_CHANGES, DEAD_LETTERS)


async def forget(settings: Settings, patience: float = 60.0) -> None:
    """Make anew what the worker writes, and set its group back to the beginning of what it reads."""
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
    """Delete what the peers wrote: a million states of each would fill a small disk."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        theirs = [name for name in await admin.list_topics() if not name.startswith((settings.topic_prefix, "__"))]
        if theirs:
            await admin.delete_topics(theirs)
    finally:
        await admin.close()


async def _read(admin: Any, group: str) -> list[Any]:
    """The partitions of which the group has read something."""
    while True:
        try:
            return list(await admin.list_consumer_group_offsets(group))
        except GroupCoordinatorNotAvailableError:
            await asyncio.sleep(0.1)  # a fresh broker makes the topic for this on first asking


async def _rewind(bootstrap: str, group: str, places: list[Any]) -> None:
    """Only a group without members takes offsets from outside: the last worker's session may have to run out first."""
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
