"""A static member of a consumer group gets its partitions back without a rebalance of the others."""

from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from pipeline.runtime.kafka_clients import create_consumer, start_client
from pipeline.settings import Settings
from tests.support.seeing import until
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
