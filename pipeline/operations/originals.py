"""Find the complete record of a dead letter, so that it can be appended again; `mailfold dead replay` calls it."""

from aiokafka import TopicPartition

from pipeline.errors import NotFound, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import MAX_REQUEST_BYTES, discover_partitions, topic_partition
from pipeline.settings import Settings
from topics.codec import Undecodable, decode
from topics.dead_letters import DeadLetter
from topics.record import LogPosition
from topics.registry import PROVIDER_WEBHOOKS

KeyAndValue = tuple[bytes | None, bytes]
"""The key and the value of a record."""


async def original_record(rt: Runtime, letter: DeadLetter) -> KeyAndValue:
    """Return key and value of the complete record, from the dead letter, or from its source if that copy is cut.

    Raise NotFound if the source no longer has it, and Refused if the record is larger than a request may be.
    """
    if letter.value is not None and is_whole(letter):
        return letter.key, letter.value
    try:
        key, value = await read_record(rt.settings, letter.source)
    except NotFound as error:
        raise NotFound(f"the letter holds only a part of its record, and {error}") from error
    if value is None:
        raise NotFound(f"{letter.source} has no value that could be appended again")
    if len(value) + len(key or b"") > MAX_REQUEST_BYTES:
        raise Refused(
            f"{letter.source} has {len(value)} bytes, and no record of more than {MAX_REQUEST_BYTES} is taken"
        )
    return key, value


def is_whole(letter: DeadLetter) -> bool:
    """Return whether the letter holds the complete record, not only its beginning or one event of a webhook."""
    if letter.cut:
        return False
    if letter.source.topic != PROVIDER_WEBHOOKS.name or letter.reason == "undecodable":
        return True
    try:
        decode(PROVIDER_WEBHOOKS, letter.value)
    except Undecodable:
        return False
    return True


async def read_record(settings: Settings, place: LogPosition) -> tuple[bytes | None, bytes | None]:
    """Return key and value of the record at ``place``. Raise NotFound if it is not there, or no longer."""
    partition: TopicPartition = topic_partition(place.topic, place.partition, settings)
    reader = create_consumer(settings, fetch_max_wait_ms=50)
    await start_client(reader, settings)
    try:
        if partition not in await discover_partitions(reader, partition.topic):
            raise NotFound(f"there is no partition {place.topic}/{place.partition}")
        reader.assign([partition])
        beginning = (await reader.beginning_offsets([partition]))[partition]
        end = (await reader.end_offsets([partition]))[partition]
        if beginning <= place.offset < end:
            reader.seek(partition, place.offset)
            records = (await reader.getmany(partition, timeout_ms=5_000, max_records=1)).get(partition, [])
            if records and records[0].offset == place.offset:
                return records[0].key, records[0].value
    finally:
        await reader.stop()
    raise NotFound(f"the log has no record {place}, or no longer")
