"""The rights of each role, and the commands that give them."""

import shlex

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.operations.kafka_rights import KafkaRight, RightsHolder, acl_commands, rights_of
from topics.registry import TOPICS


def test_only_setup_may_create_and_nobody_may_change_the_cluster() -> None:
    for holder in RightsHolder:
        operations = {right.operation for right in rights_of([holder])}
        assert ("Create" in operations) == (holder is RightsHolder.SETUP)
        assert operations <= {"Read", "Write", "Create", "Describe", "DescribeConfigs", "IdempotentWrite"}
        assert {right.operation for right in rights_of([holder]) if right.kind == "cluster"} <= {"IdempotentWrite"}


def test_rights_of_several_roles_are_each_listed_once() -> None:
    rights = rights_of(RightsHolder)
    assert len(rights) == len(set(rights))
    assert rights == rights_of([*RightsHolder, *RightsHolder])
    assert KafkaRight("topic", "send-requests", "Describe") not in rights
    assert {right.name for right in rights if right.operation == "DescribeConfigs"} == {t.name for t in TOPICS}


def test_commands_name_resources_with_their_prefix_and_quote_them() -> None:
    rights = [
        KafkaRight("cluster", "", "IdempotentWrite"),
        KafkaRight("topic", "a", "Read"),
        KafkaRight("topic", "b", "Read"),
        KafkaRight("transactional-id", "mailfold-", "Write", is_prefix=True),
    ]
    commands = acl_commands(rights, "User:CN=a b,O='x'", "broker:9092", "p-")
    assert [shlex.split(command)[6:] for command in commands] == [
        ["--allow-principal", "User:CN=a b,O='x'", "--operation", "IdempotentWrite", "--cluster"],
        ["--allow-principal", "User:CN=a b,O='x'", "--operation", "Read", "--topic", "p-a", "--topic", "p-b"],
        [
            *("--allow-principal", "User:CN=a b,O='x'", "--operation", "Write"),
            *("--resource-pattern-type", "prefixed", "--transactional-id", "p-mailfold-"),
        ],
    ]


def test_command_prints_the_rights_of_one_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "kafka.example:9093")
    monkeypatch.setenv("MAILFOLD_TOPIC_PREFIX", "x-")
    done = CliRunner().invoke(app, ["topics", "acls", "--principal", "User:emit", "--role", "emit"])
    start = "kafka-acls --bootstrap-server kafka.example:9093 --command-config admin.properties --add"
    assert done.stdout.splitlines() == [
        f"{start} --allow-principal User:emit --operation IdempotentWrite --cluster",
        f"{start} --allow-principal User:emit --operation Read --topic x-conversion-results",
        f"{start} --allow-principal User:emit --operation Write --topic x-conversion-results",
        f"{start} --allow-principal User:emit --operation Describe --topic x-message-contents --topic x-send-requests",
    ]


def test_command_without_role_leaves_out_setup() -> None:
    done = CliRunner().invoke(app, ["topics", "acls", "--principal", "User:all"])
    assert "--operation Create" not in done.stdout
    assert "--group mailfold" in done.stdout


@pytest.mark.parametrize("principal", ["mailfold", "User:", ":x"])
def test_principal_without_kind_or_name_is_refused(principal: str) -> None:
    done = CliRunner().invoke(app, ["topics", "acls", "--principal", principal])
    assert done.exit_code == 1
    assert "--principal: a kind and a name" in str(done.exception)
