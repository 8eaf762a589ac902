"""A static member of a consumer group gets its partitions back without a rebalance of the others."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.settings import Settings
from tests.support.seeing import until
from tests.support.worker import Worker, assert_folded, feed, lives
from topics.registry import EMAIL_CHANGES


class RebalanceCount(ConsumerRebalanceListener):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        self.assignments: list[set[int]] = []

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self.assignments.append({partition.partition for partition in assigned})

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        pass


async def join(settings: Settings, name: str, count: RebalanceCount) -> AIOKafkaConsumer:
    own = settings.model_copy(update={"kafka_group_instance_id": name})
    consumer = create_consumer(own, group_id=f"{settings.topic_prefix}members", session_timeout_ms=10_000)
    await start_client(consumer, own)
    consumer.subscribe([settings.topic(EMAIL_CHANGES.name)], listener=count)
    return consumer


async def test_static_member_that_returns_disturbs_nobody(settings: Settings) -> None:
    stays, leaves, returns = RebalanceCount(), RebalanceCount(), RebalanceCount()
    first = await join(settings, "one", stays)
    second = await join(settings, "two", leaves)
    try:
        await until(lambda: leaves.assignments and stays.assignments[-1:] == [{0, 1} - leaves.assignments[-1]])
        before = len(stays.assignments)
        await second.stop()
        second = await join(settings, "two", returns)
        await until(lambda: returns.assignments)
        assert returns.assignments == leaves.assignments[-1:]
        assert len(stays.assignments) == before
    finally:
        await first.stop()
        await second.stop()


@pytest.mark.ci
async def test_killed_worker_that_is_a_static_member_goes_on_at_once(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(update={"kafka_group_instance_id": "worker-0"})
    with Worker(own, tmp_path / "worker") as worker:
        for seed in range(3):
            await feed(settings, lives(50, seed=seed))
            await assert_folded(settings)
            worker.kill()
            worker.start()
        await feed(settings, lives(50, seed=9))
        await assert_folded(settings)
        assert worker.terminate() == 0
        worker.start()
        await feed(settings, lives(50, seed=10))
        await assert_folded(settings)
