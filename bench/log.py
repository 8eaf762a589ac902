"""Kafka for the stages: append records in bulk, read all records of topics, and see what a group has committed."""

from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import append_all, open_kafka_log
from pipeline.runtime.kafka.log_compression import LogCompression
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from topics.record import LogPosition

RUN = 2_000


async def produce(settings: Settings, entries: Iterable[LogEntry]) -> list[LogPosition]:
    """Append all entries, wait until Kafka has confirmed them, and return their positions."""
    places: list[LogPosition] = []
    async with open_kafka_log(settings, LogCompression(is_on=True)) as log:
        run: list[LogEntry] = []
        for entry in entries:
            run.append(entry)
            if len(run) == RUN:
                places += await append_all(log, run, within=60)
                run = []
        places += await append_all(log, run, within=60)
    return places


async def committed(admin: AIOKafkaAdminClient, group: str, names: Sequence[str]) -> int:
    """Return how many records of these topics a group has committed."""
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    except GroupCoordinatorNotAvailableError:
        return 0  # a new broker creates the topic of offsets at the first request
    return sum(max(0, found.offset) for partition, found in offsets.items() if partition.topic in names)


async def drain(settings: Settings, *names: str) -> int:
    """Read whole topics with `getmany` without decoding anything; return the number of records.

    It is the peer of all stages that read.
    """
    reader: AIOKafkaConsumer = create_consumer(settings, *names)
    await reader.start()
    try:
        partitions = [
            TopicPartition(settings.topic(name), number) for name in names for number in range(settings.partitions)
        ]
        ends = await reader.end_offsets(partitions)
        total, seen = sum(ends.values()), 0
        while seen < total:
            fetched = await reader.getmany(timeout_ms=1000, max_records=10_000)
            seen += sum(len(records) for records in fetched.values())
        return seen
    finally:
        await reader.stop()
