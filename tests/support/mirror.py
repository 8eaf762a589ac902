"""Copy the log to topics with another prefix, as a mirror or a restored cluster has it: same records, other offsets."""

import asyncio
from collections.abc import Collection

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from topics.registry import TOPICS, Topic


async def mirror(
    source: Settings, target: Settings, *, shift: int = 0, until_ms: int | None = None, whole: Collection[Topic] = ()
) -> None:
    """Create the topics of ``target`` and copy all records with their keys, times and partitions.

    ``shift``: by how much greater the offsets are, except on compacted topics. ``until_ms``: copy none that is later,
    as if the copy were an older one, except of the ``whole`` topics.
    """
    await topic_admin.create(target)
    if shift:
        await _shift(target, shift)
    for topic in TOPICS:
        await _copy(source, target, topic, None if topic in whole else until_ms)


async def drop(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([settings.topic(topic.name) for topic in TOPICS])
    finally:
        await admin.close()


def _places(settings: Settings, topic: Topic) -> list[TopicPartition]:
    numbers = range(1 if topic.has_one_partition else settings.partitions)
    return [TopicPartition(settings.topic(topic.name), number) for number in numbers]


async def _shift(settings: Settings, shift: int) -> None:
    """Append records and delete them, as the retention of a cluster does that was used before."""
    places = [place for topic in TOPICS if topic.cleanup == "delete" for place in _places(settings, topic)]
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    try:
        for place in places:
            for _ in range(shift):
                await producer.send(place.topic, b"old", partition=place.partition, timestamp_ms=1)
    finally:
        await producer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_records({place: RecordsToDelete(before_offset=shift) for place in places})
    finally:
        await admin.close()


async def _copy(source: Settings, target: Settings, topic: Topic, until_ms: int | None) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=source.kafka_bootstrap, enable_auto_commit=False, isolation_level="read_committed"
    )
    producer = AIOKafkaProducer(bootstrap_servers=target.kafka_bootstrap, max_request_size=2_000_000)
    await consumer.start()
    await producer.start()
    try:
        places = _places(source, topic)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        async with asyncio.timeout(30):
            while any([await consumer.position(place) < ends[place] for place in places]):
                for place, records in (await consumer.getmany(timeout_ms=200)).items():
                    for record in records:
                        if until_ms is None or record.timestamp <= until_ms:
                            await producer.send(
                                *(target.topic(topic.name), record.value, record.key, place.partition),
                                timestamp_ms=record.timestamp,
                            )
    finally:
        await consumer.stop()
        await producer.stop()
