"""Batches on the log are compressed where the feature level allows it, and read whatever their codec."""

import shutil
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.settings import Settings
from projections.feature_level import COMPRESSED_LOG_LEVEL
from tests.support.worker import Worker, assert_folded, feed, lives
from topics.codec import encode
from topics.registry import EMAIL_CHANGES, EMAIL_STATES, SEND_REQUESTS, Topic

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
"""Codecs by their number in a batch."""


async def codecs_on(settings: Settings, topic: Topic) -> set[str]:
    """Return the codecs of the batches that have records, of all partitions."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap)
    await consumer.start()
    codecs = set()
    try:
        name = settings.topic(topic.name)
        consumer.assign([TopicPartition(name, number) for number in range(settings.partitions)])
        await consumer.end_offsets(consumer.assignment())
        partitions = [(number, 0, 4_000_000) for number in range(settings.partitions)]
        node = consumer._client.cluster.leader_for_partition(TopicPartition(name, 0))
        response = await consumer._client.send(node, FetchRequest(100, 1, 8_000_000, 1, [(name, partitions)]))
        for _, found in response.topics:
            for *_, data in found:
                batches = MemoryRecords(data)
                while batches.has_next():
                    batch = batches.next_batch()
                    if not batch.is_control_batch:
                        codecs.add(CODECS[batch.compression_type])
    finally:
        await consumer.stop()
    return codecs


@pytest.mark.ci
async def test_worker_compresses_reads_every_codec_and_recovers_its_states(settings: Settings, tmp_path: Path) -> None:
    entries = lives(60, seed=8)
    for number, codec in enumerate(CODECS):
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka_bootstrap, compression_type=None if codec == "none" else codec
        )
        await producer.start()
        try:
            for entry in entries[number :: len(CODECS)]:
                value, key = encode(entry.topic, entry.record), (entry.key or "").encode()
                await producer.send(settings.topic(entry.topic.name), value, key=key)
        finally:
            await producer.stop()
    worker = Worker(settings, tmp_path / "one")
    with worker:
        await assert_folded(settings)
        assert await codecs_on(settings, EMAIL_CHANGES) == {"zstd"}
        assert await codecs_on(settings, EMAIL_STATES) == {"zstd"}
        worker.kill()
        shutil.rmtree(worker.folder / "worker")
        worker.start()
        await feed(settings, lives(60, seed=8))  # the same emails: the states must be there
        await assert_folded(settings)


@pytest.mark.parametrize(("level", "expected"), [(COMPRESSED_LOG_LEVEL - 1, "none"), (COMPRESSED_LOG_LEVEL, "zstd")])
async def test_role_compresses_from_the_feature_level_on(settings: Settings, level: int, expected: str) -> None:
    """Processes of the level below can't read what is compressed."""
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as connection:
        await connection.execute("update admin.feature_level set level = %s", (level,))
    async with open_runtime(settings) as rt:
        requests = [entry for entry in lives(60, seed=9) if entry.topic is SEND_REQUESTS]
        await append_all(rt.log, requests)  # many entries: in batches of our own
        await append_all(rt.log, requests[:5])  # few: in aiokafka's
    assert await codecs_on(settings, SEND_REQUESTS) == {expected}
