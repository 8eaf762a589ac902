"""`mailfold topics create|check`: the cluster's topics against the registry. Creates, checks, never alters."""

import asyncio
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from pipeline.errors import LogUnavailable, TopicMismatch
from pipeline.runtime.kafka import MAX_REQUEST_BYTES
from pipeline.settings import Settings
from topics.registry import TOPICS, Topic

ALTER_HINT: Final = "alter it with your cluster's tools"
READABLE_COMPRESSIONS: Final = frozenset({"producer", "uncompressed", "gzip"})
"""Compression that every reader of ours can undo; with any other the broker would compress all that it takes."""


def expected_config(topic: Topic) -> dict[str, str]:
    """A topic's configuration on the cluster."""
    config = {"cleanup.policy": topic.cleanup, "max.message.bytes": str(MAX_REQUEST_BYTES)}
    if topic.cleanup == "delete":
        config["retention.ms"] = str(topic.retention_ms)
    return config


def min_in_sync_replicas(settings: Settings) -> int:
    """Replicas that must have a record before it counts as confirmed: all but one, where there are three or more.

    With Kafka's default of one, `acks=all` may mean the leader alone, and what it confirmed goes with it. Of two
    replicas one must do, or the loss of either would stop everything.
    """
    return max(1, settings.replication_factor - 1)


def expected_partitions(topic: Topic, settings: Settings) -> int:
    """How many partitions a topic has."""
    return 1 if topic.has_one_partition else settings.partitions


async def create(settings: Settings) -> list[str]:
    """Create the topics that don't exist, then check all; the names created.

    Raises TopicMismatch and LogUnavailable as :func:`check` does.
    """
    admin = await _admin(settings)
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if settings.topic(topic.name) not in existing]
        if missing:
            response = await admin.create_topics([_new(topic, settings) for topic in missing])
            for name, code, message in (tuple(row)[:3] for row in response.topic_errors):
                if code and for_code(code) is not TopicAlreadyExistsError:
                    raise TopicMismatch(
                        f"{name}: the cluster refused to create it: {message or for_code(code).__name__}"
                    )
    finally:
        await admin.close()
    await _until_visible(settings)
    return [settings.topic(topic.name) for topic in missing]


async def check(settings: Settings) -> None:
    """Compare every topic with the registry.

    Raises TopicMismatch, naming each difference and what to do, and LogUnavailable.
    """
    problems = await differences(settings)
    if problems:
        raise TopicMismatch("\n".join(problems))


async def differences(settings: Settings) -> list[str]:
    """What is not as it must be, a line each."""
    admin = await _admin(settings)
    try:
        names = [settings.topic(topic.name) for topic in TOPICS]
        existing = set(await admin.list_topics())
        found = [name for name in names if name in existing]
        described = {row["topic"]: row for row in await admin.describe_topics(found)} if found else {}
        configs = await _configs(admin, found)
    finally:
        await admin.close()
    problems: list[str] = []
    for topic in TOPICS:
        name = settings.topic(topic.name)
        if name not in described:
            problems.append(f"{name}: doesn't exist; `mailfold topics create` makes it")
            continue
        problems += _compare(name, topic, len(described[name]["partitions"]), configs[name], settings)
    return problems


def _compare(name: str, topic: Topic, partitions: int, config: dict[str, str], settings: Settings) -> list[str]:
    problems = []
    wanted = expected_partitions(topic, settings)
    if partitions != wanted:
        problems.append(
            f"{name}: {partitions} partitions, MAILFOLD_PARTITIONS says {wanted}; set it to the cluster's number "
            "(a key's partition must never change)"
        )
    for key, value in expected_config(topic).items():
        if config.get(key) != value:
            problems.append(f"{name}: {key} is {config.get(key)}, must be {value}; {ALTER_HINT}")
    if int(config.get("min.insync.replicas") or 1) < min_in_sync_replicas(settings):
        problems.append(
            f"{name}: min.insync.replicas is {config.get('min.insync.replicas')}, must be at least "
            f"{min_in_sync_replicas(settings)} with MAILFOLD_REPLICATION_FACTOR={settings.replication_factor}; "
            f"{ALTER_HINT}"
        )
    if (compression := config.get("compression.type") or "producer") not in READABLE_COMPRESSIONS:
        problems.append(
            f"{name}: compression.type is {compression}, must be one of {sorted(READABLE_COMPRESSIONS)}; {ALTER_HINT}"
        )
    return problems


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for _code, _message, _kind, name, entries in response.resources:
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _until_visible(settings: Settings, patience: float = 15.0) -> None:
    """A broker answers 'created' before its metadata shows it."""
    deadline = asyncio.get_running_loop().time() + patience
    while problems := await differences(settings):
        if asyncio.get_running_loop().time() > deadline or not all("doesn't exist" in line for line in problems):
            raise TopicMismatch("\n".join(problems))
        await asyncio.sleep(0.1)


def _new(topic: Topic, settings: Settings) -> NewTopic:
    return NewTopic(
        settings.topic(topic.name),
        expected_partitions(topic, settings),
        settings.replication_factor,
        topic_configs={**expected_config(topic), "min.insync.replicas": str(min_in_sync_replicas(settings))},
    )


async def _admin(settings: Settings) -> AIOKafkaAdminClient:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, request_timeout_ms=15_000)
    try:
        await admin.start()
    except (KafkaError, OSError) as error:
        await admin.close()
        raise LogUnavailable(f"Kafka at KAFKA_BOOTSTRAP={settings.kafka_bootstrap} does not answer: {error}") from error
    return admin
