"""One way out per partition: who opens it next locks out whoever had it, with all that is under way."""

import asyncio
import gc

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from pipeline.errors import Fenced
from pipeline.settings import Settings
from pipeline.worker.streaming.producer import TransactionalProducer
from tests.support.worker import dump
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, SEND_REQUESTS


async def committed(settings: Settings) -> int | None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group(settings))
    finally:
        await admin.close()
    found = offsets.get(source(settings))
    return None if found is None else int(found.offset)


def group(settings: Settings) -> str:
    return f"{settings.topic_prefix}mailfold"


def source(settings: Settings) -> TopicPartition:
    return TopicPartition(settings.topic(SEND_REQUESTS.name), 1)


async def values(settings: Settings) -> dict[str, list[bytes | None]]:
    return {
        topic.name: [value for _, _, value in await dump(settings, topic)] for topic in (EMAIL_STATES, EMAIL_CHANGES)
    }


def writes(value: bytes) -> dict[object, list[tuple[bytes, bytes]]]:
    return {(EMAIL_STATES, 1): [(b"k", value)], (EMAIL_CHANGES, 1): [(b"k", value)]}


async def test_states_changes_and_offsets_come_together(settings: Settings) -> None:
    gate = TransactionalProducer(settings, group(settings), 1)
    await gate.open()
    try:
        ends = await gate.write(writes(b"1"), {source(settings): 3})  # type: ignore[arg-type]
        again = await gate.write(writes(b"2"), {source(settings): 5})  # type: ignore[arg-type]
    finally:
        await gate.close()
    assert (ends["email-states", 1], again["email-changes", 1]) == (0, 2)  # between them a marker
    assert await values(settings) == {"email-states": [b"1", b"2"], "email-changes": [b"1", b"2"]}
    assert await committed(settings) == 5


async def test_next_producer_fences_an_open_transaction(settings: Settings) -> None:
    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    frozen, successor = (
        TransactionalProducer(settings, group(settings), 1),
        TransactionalProducer(settings, group(settings), 1),
    )
    await frozen.open()
    await frozen._producer.begin_transaction()
    await frozen._producer.send_and_wait(settings.topic(EMAIL_STATES.name), b"stale", key=b"k", partition=1)
    await successor.open()
    try:
        await successor.write(writes(b"fresh"), {source(settings): 7})  # type: ignore[arg-type]
        frozen._producer._txn_manager.state = type(frozen._producer._txn_manager.state).READY
        with pytest.raises(Fenced):
            await frozen.write(writes(b"stale"), {source(settings): 2})  # type: ignore[arg-type]
        await successor.write(writes(b"fresher"), {source(settings): 8})  # type: ignore[arg-type]
    finally:
        await frozen.close()
        await successor.close()
    assert await values(settings) == {"email-states": [b"fresh", b"fresher"], "email-changes": [b"fresh", b"fresher"]}
    assert await committed(settings) == 8
    del frozen
    gc.collect()
    assert unheard == [], "an error that nobody asked for is logged with a traceback, long after it was dealt with"
