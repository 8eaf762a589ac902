"""The rights that each role needs on a Kafka cluster with an authorizer; `mailfold topics acls` prints commands.

docs/reference/kafka-rights.md is made from this, and tests/integration/test_kafka_rights.py runs each role's clients
with these rights and no other.
"""

import shlex
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal

import msgspec

from pipeline.operations.lag import WORKER_GROUP
from pipeline.project.main import CONSUMER_GROUP
from topics.registry import (
    CONVERSION_RESULTS,
    DEAD_LETTERS,
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    EMAIL_STATES,
    FACT_TOPICS,
    MESSAGE_CONTENTS,
    OPERATOR_ACTIONS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    ROLE_TOPICS,
    SEND_REQUESTS,
    SUPPRESSIONS,
    TEMPLATES,
    TOPICS,
    UNCORRELATED_EVENTS,
    Topic,
)

Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "IdempotentWrite"]
ResourceKind = Literal["topic", "group", "transactional-id", "cluster"]


class RightsHolder(StrEnum):
    """A role, or people with the command line, who may have a Kafka user of their own."""

    GATEWAY = "gateway"
    WORKER = "worker"
    DISPATCH = "dispatch"
    PROJECT = "project"
    EMIT = "emit"
    COMMANDS = "commands"
    """`status`, `trace`, `dead`, `renormalize`, `rebuild`, `inbound`, `topics check`, `recover`, `actions`, and all
    commands that change something."""
    SETUP = "setup"
    """`topics create`."""


class KafkaRight(msgspec.Struct, frozen=True, order=True):
    """One operation on one resource; its name is without `MAILFOLD_TOPIC_PREFIX`."""

    kind: ResourceKind
    name: str
    operation: Operation
    is_prefix: bool = False
    """Whether the right holds for all names that begin with this one."""


READ_TOPICS: Final[dict[RightsHolder, tuple[Topic, ...]]] = {
    # Of the dead letters, each reads which records an operator has skipped.
    RightsHolder.WORKER: (*FACT_TOPICS, PROVIDER_WEBHOOKS, EMAIL_STATES, DEAD_LETTERS),
    RightsHolder.DISPATCH: (SEND_REQUESTS, PROVIDER_ACKS, UNCORRELATED_EVENTS, MESSAGE_CONTENTS, DEAD_LETTERS),
    RightsHolder.PROJECT: (EMAIL_CHANGES, TEMPLATES, SUPPRESSIONS, DEAD_LETTERS),
    RightsHolder.EMIT: (CONVERSION_RESULTS,),
    RightsHolder.COMMANDS: TOPICS,
}
WRITTEN_TOPICS: Final[dict[RightsHolder, tuple[Topic, ...]]] = {
    RightsHolder.GATEWAY: (
        *(MESSAGE_CONTENTS, SEND_REQUESTS, PROVIDER_WEBHOOKS, DELIVERY_EVENTS),
        *(TEMPLATES, SUPPRESSIONS, OPERATOR_ACTIONS),
    ),
    RightsHolder.WORKER: (EMAIL_STATES, EMAIL_CHANGES, DELIVERY_EVENTS, UNCORRELATED_EVENTS, DEAD_LETTERS),
    RightsHolder.DISPATCH: (PROVIDER_ACKS, DELIVERY_EVENTS, DEAD_LETTERS),
    RightsHolder.PROJECT: (EMAIL_CHANGES, DEAD_LETTERS),
    RightsHolder.EMIT: (CONVERSION_RESULTS,),
    # A dead letter that is replayed goes back to the topic that it came from; one of a skipped record is written.
    RightsHolder.COMMANDS: tuple(topic for topic in TOPICS if topic not in (EMAIL_STATES, MESSAGE_CONTENTS)),
}
_READINESS: Final = tuple(KafkaRight("topic", topic.name, "Describe") for topic in (MESSAGE_CONTENTS, SEND_REQUESTS))
"""A role is ready when the partitions of these topics have leaders."""
_OTHER_RIGHTS: Final[dict[RightsHolder, tuple[KafkaRight, ...]]] = {
    RightsHolder.WORKER: (
        KafkaRight("group", WORKER_GROUP, "Read"),
        KafkaRight("transactional-id", f"{WORKER_GROUP}-", "Write", is_prefix=True),
        # It checks the topics when it starts.
        *(KafkaRight("topic", topic.name, "Describe") for topic in ROLE_TOPICS),
        *(KafkaRight("topic", topic.name, "DescribeConfigs") for topic in ROLE_TOPICS),
    ),
    RightsHolder.PROJECT: (KafkaRight("group", CONSUMER_GROUP, "Read"), *_READINESS),
    RightsHolder.EMIT: _READINESS,
    RightsHolder.COMMANDS: (
        *(KafkaRight("group", group, "Describe") for group in (WORKER_GROUP, CONSUMER_GROUP)),
        *(KafkaRight("topic", topic.name, "DescribeConfigs") for topic in TOPICS),
    ),
    RightsHolder.SETUP: tuple(
        KafkaRight("topic", topic.name, operation)
        for topic in TOPICS
        for operation in ("Create", "Describe", "DescribeConfigs")
    ),
}


def rights_of(holders: Iterable[RightsHolder]) -> list[KafkaRight]:
    """Return the rights that one user needs who does the work of all these, sorted, each once."""
    rights: set[KafkaRight] = set()
    for holder in holders:
        rights |= {KafkaRight("topic", topic.name, "Read") for topic in READ_TOPICS.get(holder, ())}
        written = {KafkaRight("topic", topic.name, "Write") for topic in WRITTEN_TOPICS.get(holder, ())}
        # Only brokers before Kafka 2.8 ask for IdempotentWrite; newer ones are content with Write on any topic.
        rights |= written | ({KafkaRight("cluster", "", "IdempotentWrite")} if written else set())
        rights |= set(_OTHER_RIGHTS.get(holder, ()))
    return sorted(right for right in rights if not _is_implied(right, rights))


def acl_commands(rights: Iterable[KafkaRight], principal: str, bootstrap: str, prefix: str) -> list[str]:
    """Return one `kafka-acls` command per operation and kind of resource; ``prefix`` is MAILFOLD_TOPIC_PREFIX."""
    names: dict[tuple[ResourceKind, bool, Operation], list[str]] = defaultdict(list)
    for right in rights:
        names[right.kind, right.is_prefix, right.operation].append(prefix + right.name)
    start = f"kafka-acls --bootstrap-server {shlex.quote(bootstrap)} --command-config admin.properties --add"
    commands = []
    for (kind, is_prefix, operation), resources in names.items():
        command = f"{start} --allow-principal {shlex.quote(principal)} --operation {operation}"
        if is_prefix:
            command += " --resource-pattern-type prefixed"
        named = [f"--{kind} {shlex.quote(name)}" for name in resources]
        commands.append(" ".join([command, *(named if kind != "cluster" else ["--cluster"])]))
    return commands


def _is_implied(right: KafkaRight, rights: set[KafkaRight]) -> bool:
    """Return whether another of the rights allows this, too: who may read or write may describe."""
    return right.operation == "Describe" and any(
        KafkaRight(right.kind, right.name, operation) in rights for operation in ("Read", "Write")
    )
