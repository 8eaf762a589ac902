"""Fill a topic with events, in whole Kafka batches per partition, in order and confirmed."""

from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2

from topics.codec import encode
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

BATCH_BYTES: Final = 256 * 1024
_IN_FLIGHT: Final = 32


async def create(bootstrap: str, topic: str, partitions: int) -> None:
    """Create a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


async def fill(bootstrap: str, topic: str, partitions: int, events: Iterable[DeliveryEvent]) -> int:
    """Append all events, to the partitions that Kafka's default partitioner chooses, and return their number."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES
    )
    await producer.start()
    count, sent = 0, []
    batches: list[Any] = [producer.create_batch() for _ in range(partitions)]
    try:
        for count, event in enumerate(events, 1):  # noqa: B007  the last value is the number of events
            key, value = event.email_id.encode(), encode(DELIVERY_EVENTS, event)
            number = (murmur2(key) & 0x7FFFFFFF) % partitions
            if batches[number].append(key=key, value=value, timestamp=None) is None:
                sent.append(await producer.send_batch(batches[number], topic, partition=number))
                batches[number] = producer.create_batch()
                batches[number].append(key=key, value=value, timestamp=None)
            if len(sent) >= _IN_FLIGHT:
                await sent.pop(0)
        sent += [
            await producer.send_batch(batch, topic, partition=number)
            for number, batch in enumerate(batches)
            if batch.record_count()
        ]
        for confirmed in sent:
            await confirmed
    finally:
        await producer.stop()
    return count


async def repeat_first(bootstrap: str, topic: str, partitions: int) -> None:
    """Append the first record of each partition again, so that an engine has an event to process after a recovery."""
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await reader.start()
    await producer.start()
    try:
        for number in range(partitions):
            place = TopicPartition(topic, number)
            reader.assign([place])
            await reader.seek_to_beginning(place)
            if (await reader.end_offsets([place]))[place]:
                first = await reader.getone(place)
                await producer.send_and_wait(topic, first.value, key=first.key, partition=number)
    finally:
        await producer.stop()
        await reader.stop()
