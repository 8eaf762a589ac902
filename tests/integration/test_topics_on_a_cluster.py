"""`mailfold topics create|check` against a real broker."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.errors import LogUnavailable, TopicMismatch
from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from tests.support.seeing import until
from topics.registry import DAY_MS, PROVIDER_WEBHOOKS


async def test_topics_that_were_created_pass_the_check_and_creating_again_changes_nothing(settings: Settings) -> None:
    await topic_admin.check(settings)
    assert await topic_admin.create(settings) == []


async def test_another_number_of_partitions_is_a_clear_error_and_nothing_is_altered(settings: Settings) -> None:
    other = settings.model_copy(update={"partitions": 3})
    with pytest.raises(TopicMismatch, match="send-requests: 2 partitions, MAILFOLD_PARTITIONS says 3"):
        await topic_admin.create(other)
    await topic_admin.check(settings)


async def test_a_missing_topic_is_named_with_what_to_do(settings: Settings) -> None:
    other = settings.model_copy(update={"topic_prefix": "nowhere-"})
    with pytest.raises(TopicMismatch, match="nowhere-send-requests: doesn't exist; `mailfold topics create` makes it"):
        await topic_admin.check(other)


async def test_a_confirmation_by_the_leader_alone_is_refused_where_there_are_replicas(settings: Settings) -> None:
    for factor in (1, 2):
        await topic_admin.check(settings.model_copy(update={"replication_factor": factor}))
    with pytest.raises(TopicMismatch, match=r"send-requests: min\.insync\.replicas is 1, must be at least 2"):
        await topic_admin.check(settings.model_copy(update={"replication_factor": 3}))


async def test_a_shorter_retention_is_named_with_what_breaks_and_a_longer_one_is_right(settings: Settings) -> None:
    name = settings.topic(PROVIDER_WEBHOOKS.name)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()

    async def check_with(days: int) -> list[str]:
        config = topic_admin.expected_config(PROVIDER_WEBHOOKS) | {"retention.ms": str(days * DAY_MS)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])
        return await topic_admin.differences(settings)

    async def problem() -> str:
        return "".join(await check_with(29))

    async def is_right() -> bool:
        return await check_with(31) == []

    try:
        told = await until(problem)  # the broker applies a change of configuration a moment after it confirmed it
        assert "provider-webhooks: retention.ms is 2505600000 (29 days), must be at least 2592000000 (30 days)" in told
        assert "`mailfold renormalize` finds no raw webhooks" in told
        await until(is_right)
    finally:
        await admin.close()


async def test_contents_that_go_before_the_last_attempt_are_named(settings: Settings) -> None:
    patient = settings.model_copy(update={"dispatch_schedule": (86_400.0,) * 10})
    with pytest.raises(TopicMismatch, match=r"message-contents: .*must be at least 864000000 \(10 days\)"):
        await topic_admin.check(patient)


async def test_a_broker_that_is_away_is_named(settings: Settings) -> None:
    other = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    with pytest.raises(LogUnavailable, match=r"KAFKA_BOOTSTRAP=127\.0\.0\.1:1 does not answer"):
        await topic_admin.check(other)
