"""Outages of Kafka that last longer than any time-out end by themselves: the same process appends again."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.devstack.servers import kafka
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.kafka.clients import create_admin, start_client
from pipeline.runtime.kafka.log import MAX_REQUEST_BYTES, KafkaLog, append_all, open_kafka_log
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.kafka_cluster import KafkaCluster, kafka_cluster
from tests.support.seeing import until
from topics.contents import ContentChunk
from topics.registry import MESSAGE_CONTENTS

APPEND_TIMEOUT_S = 2.0
OUTAGE_S = 12.0
"""Seconds of an outage: longer than callers wait, than a batch may wait for a leader in aiokafka, and than a batch may
be unconfirmed."""
HEALED_WITHIN_S = 30.0
RETRIES_PER_S = 150


@pytest.fixture
def cluster(server_folder: Path) -> Iterator[KafkaCluster]:
    with kafka_cluster(server_folder / "cluster") as running:
        yield running


@contextlib.asynccontextmanager
async def open_log(bootstrap: str, folder: Path, replicas: int) -> AsyncIterator[KafkaLog]:
    settings = Settings(
        kafka_bootstrap=bootstrap,
        data_dir=folder,
        partitions=4,
        replication_factor=replicas,
        append_timeout=APPEND_TIMEOUT_S,
    )
    await topic_admin.create(settings)
    async with open_kafka_log(settings) as log:
        log.require_topics(MESSAGE_CONTENTS)
        yield log


def chunks(name: str, count: int) -> list[LogEntry]:
    made = [ContentChunk(content_id=f"{name}-{nth}", index=0, total=1, data=b"x" * 100) for nth in range(count)]
    return [LogEntry(MESSAGE_CONTENTS, chunk.content_id, chunk) for chunk in made]


class Callers:
    """Callers that append without a pause, of few records and of many: both kinds have a path of their own."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self.confirmed = 0
        self.unconfirmed = 0

    async def run(self) -> None:
        for number in itertools.count():
            task = asyncio.create_task(self._append(chunks(str(number), 1 if number % 2 else 25)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(1 / RETRIES_PER_S)

    async def _append(self, entries: list[LogEntry]) -> None:
        places = await self._log.append(entries)
        if None in places:
            self.unconfirmed += 1
        else:
            self.confirmed += 1


def lose_numbers(log: KafkaLog) -> None:
    """Leave a gap in the numbers of each partition's batches, as one does that fails after it was numbered.

    Whether an outage makes such a batch depends on moments; without one the old producer often appends again.
    """
    for number in range(log._settings.partitions):
        partition = TopicPartition(log._settings.topic(MESSAGE_CONTENTS.name), number)
        log._producers.current._txn_manager.increment_sequence_number(partition, 1)


async def is_ready(log: KafkaLog) -> bool:
    """Ask as `/readyz` does."""
    try:
        async with asyncio.timeout(3):
            await log.ping()
    except (LogUnavailable, TimeoutError):
        return False
    return True


async def every_partition_takes(log: KafkaLog) -> bool:
    """Return whether a record for each partition is confirmed, alone and among many."""
    few, many = chunks("few", 1)[0], chunks("many", 25)
    entries = [LogEntry(few.topic, few.key, few.record, number) for number in range(log._settings.partitions)]
    spread = [LogEntry(e.topic, e.key, e.record, number % log._settings.partitions) for number, e in enumerate(many)]
    alone, among_many = await asyncio.gather(log.append(entries), log.append(spread))
    return None not in [*alone, *among_many]


async def assert_heals(log: KafkaLog, kill: Any, start: Any) -> None:
    callers = Callers(log)
    running = asyncio.create_task(callers.run())
    try:
        await until(lambda: callers.confirmed > 100)
        await until(lambda: is_ready(log), HEALED_WITHIN_S)
        kill()
        await asyncio.sleep(APPEND_TIMEOUT_S + 2)
        assert not await is_ready(log)
        before, broken = callers.confirmed, log._producers.current
        lose_numbers(log)
        await asyncio.sleep(OUTAGE_S)
        assert callers.confirmed == before
        assert callers.unconfirmed > 0
        assert not await is_ready(log)
        await start()
        await until(lambda: every_partition_takes(log), HEALED_WITHIN_S)
        await until(lambda: is_ready(log), HEALED_WITHIN_S)
        before = callers.confirmed
        await until(lambda: callers.confirmed > before + 100)
        assert log._producers.current is not broken
    finally:
        running.cancel()


async def test_log_appends_again_after_the_broker_refused_a_batch(settings: Settings) -> None:
    """The refused batch had a number, and the broker refuses what follows a gap."""
    small, large = (
        LogEntry(MESSAGE_CONTENTS, name, ContentChunk(content_id=name, index=0, total=1, data=b"x" * size), 0)
        for name, size in (("small", 10), ("large", 5_000))
    )
    async with open_kafka_log(settings) as log:
        await append_all(log, [small])
        await _limit_contents(settings, 1_000)
        await until(lambda: _is_refused(log, large))
        await _limit_contents(settings, MAX_REQUEST_BYTES)
        await until(lambda: _is_confirmed(log, small), HEALED_WITHIN_S)


async def test_log_appends_again_after_a_gap_in_its_numbers(settings: Settings) -> None:
    """It does not without a new producer: the old one is refused for ever, which the first assertion shows."""
    async with open_kafka_log(settings) as log:
        await until(lambda: every_partition_takes(log))
        broken = log._producers.current
        lose_numbers(log)
        assert not await every_partition_takes(log)
        await until(lambda: every_partition_takes(log), HEALED_WITHIN_S)
        assert log._producers.current is not broken


async def _is_refused(log: KafkaLog, entry: LogEntry) -> bool:
    return await log.append([entry]) == [None]


async def _is_confirmed(log: KafkaLog, entry: LogEntry) -> bool:
    return await log.append([entry]) != [None]


async def _limit_contents(settings: Settings, size_bytes: int) -> None:
    admin = create_admin(settings)
    await start_client(admin, settings)
    try:
        # Altering replaces the whole configuration of the topic.
        config = topic_admin.new_topic_config(MESSAGE_CONTENTS, settings) | {"max.message.bytes": str(size_bytes)}
        name = settings.topic(MESSAGE_CONTENTS.name)
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])
    finally:
        await admin.close()


@pytest.mark.ci
@pytest.mark.timeout(300)
async def test_log_appends_again_after_its_only_broker_was_killed(server_folder: Path, tmp_path: Path) -> None:
    folder, port = server_folder / "killed broker", find_free_port()
    broker = kafka.start(folder, port)

    async def start_again() -> None:
        nonlocal broker
        broker = kafka.start(folder, port)

    try:
        async with open_log(f"127.0.0.1:{port}", tmp_path, 1) as log:
            await assert_heals(log, lambda: broker.stop(9), start_again)
    finally:
        broker.stop(9)


@pytest.mark.ci
@pytest.mark.timeout(300)
async def test_log_appends_again_after_all_of_three_brokers_were_killed(cluster: KafkaCluster, tmp_path: Path) -> None:
    async def start_again() -> None:
        cluster.start()
        await until(cluster.is_ready, 120)

    async with open_log(cluster.bootstrap, tmp_path, 3) as log:
        await assert_heals(log, lambda: cluster.kill(1, 2, 3), start_again)
