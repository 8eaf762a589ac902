"""Create topics and compare those of the cluster with the registry.

`mailfold topics`, `up`, `doctor` and the worker call it. Existing topics are never altered.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from pipeline.errors import LogUnavailable, TopicMismatch
from pipeline.runtime.kafka.clients import create_admin, start_client
from pipeline.runtime.kafka.diagnosis import RIGHTS_HINT
from pipeline.runtime.kafka.log import MAX_REQUEST_BYTES, min_in_sync_replicas
from pipeline.runtime.kafka.retention_needs import needed_retention_ms, retention_problems
from pipeline.settings import Settings
from topics.registry import TOPICS, Topic

ALTER_HINT: Final = "alter it with your cluster's tools"


class BrokerAddress(msgspec.Struct, frozen=True):
    """A broker, at the address that it tells its clients."""

    node_id: int
    host: str
    port: int


class PartitionReplicas(msgspec.Struct, frozen=True):
    """The replicas of one partition and those that are in sync, by node id; ``leader`` is -1 without one."""

    topic: str
    partition: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class ClusterDescription(msgspec.Struct, frozen=True):
    """The cluster's brokers, and the partitions of our topics that exist."""

    brokers: tuple[BrokerAddress, ...]
    partitions: tuple[PartitionReplicas, ...]
    cluster_id: str = ""


def expected_config(topic: Topic) -> dict[str, str]:
    """Return the configuration that a topic must have on the cluster, without what depends on the settings."""
    return {"cleanup.policy": topic.cleanup, "max.message.bytes": str(MAX_REQUEST_BYTES)}


def expected_partitions(topic: Topic, settings: Settings) -> int:
    """Return how many partitions a topic must have."""
    return 1 if topic.has_one_partition else settings.partitions


async def create(settings: Settings) -> list[str]:
    """Create the topics that don't exist, check all, and return the names of those created.

    Raise TopicMismatch on a difference, LogUnavailable without Kafka.
    """
    admin = await _connect(settings)
    try:
        existing = set(await admin.list_topics())
        missing = [topic for topic in TOPICS if settings.topic(topic.name) not in existing]
        if missing:
            response = await admin.create_topics([_new_topic(topic, settings) for topic in missing])
            for name, code, message in (tuple(row)[:3] for row in response.topic_errors):
                if code and for_code(code) is not TopicAlreadyExistsError:
                    raise TopicMismatch(
                        f"{name}: the cluster refused to create it: {message or for_code(code).__name__}"
                    )
    finally:
        await admin.close()
    await _wait_until_visible(settings)
    return [settings.topic(topic.name) for topic in missing]


async def check(settings: Settings, topics: Sequence[Topic] = TOPICS) -> None:
    """Compare the topics with the registry.

    Raise TopicMismatch, which names each difference and its remedy, and LogUnavailable.
    """
    problems = await differences(settings, topics)
    if problems:
        raise TopicMismatch("\n".join(problems))


async def differences(settings: Settings, topics: Sequence[Topic] = TOPICS) -> list[str]:
    """Return the differences between the cluster's topics and the registry, a line each. Raise LogUnavailable."""
    admin = await _connect(settings)
    try:
        names = [settings.topic(topic.name) for topic in topics]
        existing = set(await admin.list_topics())
        present = [name for name in names if name in existing]
        described = {row["topic"]: row for row in await admin.describe_topics(present)} if present else {}
        configs = await _configs(admin, present)
    finally:
        await admin.close()
    by_topic = {topic.name: configs[name] for topic in topics if (name := settings.topic(topic.name)) in configs}
    problems: list[str] = []
    for topic in topics:
        name = settings.topic(topic.name)
        if name not in described:
            unseen = "" if settings.kafka_security_protocol == "PLAINTEXT" else f", or may not be seen: {RIGHTS_HINT}"
            problems.append(f"{name}: doesn't exist; `mailfold topics create` makes it{unseen}")
            continue
        problems += _compare(name, topic, len(described[name]["partitions"]), configs[name], settings)
        problems += [f"{name}: {problem}; {ALTER_HINT}" for problem in retention_problems(topic, by_topic, settings)]
    return problems


async def read_cluster_id(settings: Settings) -> str:
    """Return the id that the cluster was given when it was formatted. Raise LogUnavailable."""
    admin = await _connect(settings)
    try:
        cluster = await admin.describe_cluster()
    except KafkaError as error:
        raise LogUnavailable(f"the id of the cluster is not known: {error}") from error
    finally:
        await admin.close()
    return cluster["cluster_id"] or ""


async def describe_cluster(settings: Settings) -> ClusterDescription:
    """Return the cluster's brokers and the replicas of our topics' partitions. Raise LogUnavailable."""
    admin = await _connect(settings)
    try:
        cluster = await admin.describe_cluster()
        existing = set(await admin.list_topics())
        names = [name for topic in TOPICS if (name := settings.topic(topic.name)) in existing]
        topics = await admin.describe_topics(names) if names else []
    finally:
        await admin.close()
    return ClusterDescription(
        tuple(BrokerAddress(row["node_id"], row["host"], row["port"]) for row in cluster["brokers"]),
        tuple(
            PartitionReplicas(
                *(topic["topic"], row["partition"], row["leader"]), tuple(row["replicas"]), tuple(row["isr"])
            )
            for topic in topics
            for row in topic["partitions"]
        ),
        cluster["cluster_id"] or "",
    )


def _compare(name: str, topic: Topic, partitions: int, config: dict[str, str], settings: Settings) -> list[str]:
    problems = []
    expected = expected_partitions(topic, settings)
    if partitions != expected:
        problems.append(
            f"{name}: {partitions} partitions, MAILFOLD_PARTITIONS says {expected}; set it to the cluster's number "
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
    return problems


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, _message, _kind, name, entries in response.resources:
            if code:
                raise LogUnavailable(
                    f"{name}: its configuration can't be read: {for_code(code).__name__}; {RIGHTS_HINT}"
                )
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def _wait_until_visible(settings: Settings, timeout_s: float = 15.0) -> None:
    """Wait until the cluster's metadata shows every topic, which it does some time after their creation.

    Raise TopicMismatch on any other difference, and after ``timeout_s``.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while problems := await differences(settings):
        if asyncio.get_running_loop().time() > deadline or not all("doesn't exist" in line for line in problems):
            raise TopicMismatch("\n".join(problems))
        await asyncio.sleep(0.1)


def _new_topic(topic: Topic, settings: Settings) -> NewTopic:
    return NewTopic(
        settings.topic(topic.name),
        expected_partitions(topic, settings),
        settings.replication_factor,
        topic_configs=new_topic_config(topic, settings),
    )


def new_topic_config(topic: Topic, settings: Settings) -> dict[str, str]:
    """Return the whole configuration with which a topic is created."""
    config = {**expected_config(topic), "min.insync.replicas": str(min_in_sync_replicas(settings))}
    if topic.cleanup == "delete":
        config["retention.ms"] = str(needed_retention_ms(topic, settings))
    return config


async def _connect(settings: Settings) -> AIOKafkaAdminClient:
    admin = create_admin(settings)
    await start_client(admin, settings)
    return admin
