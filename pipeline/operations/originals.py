"""The record that a dead letter is about, as it may be appended again; `mailfold dead replay` asks for it."""

from aiokafka import TopicPartition

from pipeline.errors import NotFound, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import MAX_REQUEST_BYTES, create_consumer, discover_partitions, topic_partition
from topics.codec import Undecodable, decode
from topics.dead_letters import DeadLetter
from topics.registry import PROVIDER_WEBHOOKS

KeyAndValue = tuple[bytes | None, bytes]
"""A key and a value."""


async def original_record(rt: Runtime, letter: DeadLetter) -> KeyAndValue:
    """Return key and value of the whole record: the letter's own copy, or what lies at its source where that is cut.

    Raises NotFound where neither is there any more, and Refused where the record is larger than we may append.
    """
    if letter.value is not None and is_whole(letter):
        return letter.key, letter.value
    key, value = await _read(rt, letter)
    if value is None:
        raise NotFound(f"{letter.source} has no value that could be appended again")
    if len(value) + len(key or b"") > MAX_REQUEST_BYTES:
        raise Refused(
            f"{letter.source} has {len(value)} bytes, and no record of more than {MAX_REQUEST_BYTES} is taken"
        )
    return key, value


def is_whole(letter: DeadLetter) -> bool:
    """Return whether key and value are all of the record, not its beginning and not one event of a webhook."""
    if letter.cut:
        return False
    if letter.source.topic != PROVIDER_WEBHOOKS.name or letter.reason == "undecodable":
        return True
    try:
        decode(PROVIDER_WEBHOOKS, letter.value)
    except Undecodable:
        return False
    return True


async def _read(rt: Runtime, letter: DeadLetter) -> tuple[bytes | None, bytes | None]:
    source = letter.source
    place: TopicPartition = topic_partition(source.topic, source.partition, rt.settings)
    reader = create_consumer(rt.settings, fetch_max_wait_ms=50)
    await reader.start()
    try:
        await discover_partitions(reader, place.topic)
        reader.assign([place])
        first, end = (await reader.beginning_offsets([place]))[place], (await reader.end_offsets([place]))[place]
        if first <= source.offset < end:
            reader.seek(place, source.offset)
            records = (await reader.getmany(place, timeout_ms=5_000, max_records=1)).get(place, [])
            if records and records[0].offset == source.offset:
                return records[0].key, records[0].value
    finally:
        await reader.stop()
    raise NotFound(f"the letter holds only a part of {source}, and the log keeps that record no longer")
