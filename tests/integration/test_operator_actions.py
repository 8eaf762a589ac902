"""What operators change by commands and by API is on the log, is shown, and is refused where it can't be recorded."""

from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from pipeline import admin
from pipeline.errors import LogUnavailable
from pipeline.operations import trace
from pipeline.operations.actions import ActionFilter, find_action, find_actions, recent_actions
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.changes import Log, identified, request
from tests.support.command import mailfold_on
from tests.support.gateway import Gateway, gateway
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import on, rows, until
from tests.support.suppressed import publish
from topics.actions import OperatorAction
from topics.registry import OPERATOR_ACTIONS, ROLE_TOPICS, SUPPRESSIONS


async def actions(settings: Settings) -> list[OperatorAction]:
    return await find_actions(settings, ActionFilter(), 100)


async def ask(served: Gateway, method: str, path: str, body: Any = None) -> int:
    headers = {"X-Api-Key": served.key}
    content = None if body is None else msgspec.json.encode(body)
    return (await served.http.request(method, path, content=content, headers=headers)).status_code


async def test_commands_are_recorded_with_user_reason_and_values_and_without_secrets(settings: Settings) -> None:
    async def run(*arguments: str, stdin: str = "") -> str:
        said = await mailfold_on(settings, *arguments, stdin=stdin)
        assert said.code == 0, said.err
        return said.out

    await run("tenants", "add", "acme", "--batch-max", "50", "--reason", "a new customer")
    await run("tenants", "add", "acme", "--batch-max", "70")
    key = (await run("keys", "add", "acme", "--label", "shop")).strip()
    await run(
        *("providers", "add", "relay", "--host", "h", "--username", "me", "--password-env", "-"), stdin="s3cr3t-word\n"
    )
    found = await actions(settings)
    assert [action.what for action in found] == ["tenants.add", "tenants.add", "keys.add", "providers.add"]
    first, second, made, provider = found
    assert (first.target, first.tenant, first.reason) == ("acme", "acme", "a new customer")
    assert first.actor.startswith("cli ")
    assert "@" in first.actor
    assert msgspec.json.decode(first.before) is None
    assert msgspec.json.decode(second.before)["batch_max"] == 50
    assert msgspec.json.decode(second.after)["batch_max"] == 70
    assert made.target in admin.key_names(key)
    everything = msgspec.json.encode(found).decode()
    assert key not in everything
    assert "s3cr3t" not in everything
    assert msgspec.json.decode(provider.after)["has_password"] is True

    listed = await run("actions", "list", "--what", "tenants", "--who", first.actor[4:8])
    assert listed.count("tenants.add") == 2
    assert "a new customer" in listed
    assert "keys.add" not in listed
    assert '"batch_max": 50' in await run("actions", "show", second.action_id)


async def test_change_that_is_refused_is_listed_as_not_made(settings: Settings) -> None:
    said = await mailfold_on(settings, "keys", "add", "nobody")
    assert said.code == 1
    [action] = await actions(settings)
    assert (action.what, action.failure) == ("keys.add", "Refused")
    assert "not made: Refused" in (await mailfold_on(settings, "actions", "list")).out
    assert (await find_action(settings, action.action_id)).failure == "Refused"
    assert (await mailfold_on(settings, "actions", "show", "unknown")).code == 1


async def test_change_is_refused_and_says_what_to_do_where_kafka_does_not_answer(settings: Settings) -> None:
    said = await mailfold_on(settings, "tenants", "add", "late", KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert said.code == 1
    assert "Kafka at KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer" in said.err
    async with open_runtime(settings, signals=False) as rt:
        assert await rows(rt, "select from admin.tenants where tenant = 'late'") == []


async def test_routes_are_recorded_with_the_key_and_hashes(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        suppression = {"address": "anna@example.com", "brand": "7", "note": "she asked"}
        assert await ask(served, "POST", "/suppressions", suppression) in (201, 202)
        assert await ask(served, "DELETE", "/suppressions/anna@example.com?brand=7") in (200, 202)
        assert await ask(served, "DELETE", "/suppressions/bert@example.com?brand=7") == 404
        template = {"languages": {"en": {"subject": "Hi", "text": "Hello"}}}
        pushed = await ask(served, "PUT", "/templates/welcome", template)
        name = (await admin.find_key(served.rt.pool, served.key) or served).name  # type: ignore[union-attr]
    found = await actions(settings)
    whats = [action.what for action in found]
    assert whats[:2] == ["suppressions.add", "suppressions.remove"]
    assert ("templates.push" in whats) is (pushed in (200, 202))
    hashed = hash_address(AddressHasher(RING), "anna@example.com").hex()
    assert {action.target for action in found[:2]} == {hashed}
    assert {action.actor for action in found} == {f"api {name}"}
    assert found[0].reason == "she asked"
    assert "anna" not in msgspec.json.encode(found).decode()


async def test_route_answers_503_and_changes_nothing_where_its_change_is_not_recorded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(settings) as served:

        async def refuse(entries: Any, *, within: float | None = None) -> list[Any]:
            assert {entry.topic for entry in entries} == {OPERATOR_ACTIONS}
            return [None for _ in entries]

        monkeypatch.setattr(served.rt.log, "append", refuse)
        assert await ask(served, "POST", "/suppressions", {"address": "anna@example.com", "brand": "7"}) == 503
        template = {"languages": {"en": {"subject": "Hi", "text": "Hello"}}}
        assert await ask(served, "PUT", "/templates/welcome", template) in (400, 503)
    assert await on(settings, SUPPRESSIONS) == []


async def test_trace_shows_what_operators_did_to_the_address(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await publish(served, Log().fold(request(1)))
        recipient = request(1).recipient
        assert await ask(served, "POST", "/suppressions", {"address": recipient, "brand": "7"}) in (201, 202)
        [found] = (await trace.find(served.rt, identified(1))).traces
        assert found.actions is not None
        assert [action.what for action in found.actions] == ["suppressions.add"]
    said = await mailfold_on(settings, "trace", identified(1))
    assert "by an operator suppressions.add" in said.out


async def test_cluster_without_the_topic_serves_roles_and_traces_and_refuses_changes(settings: Settings) -> None:
    """An installation that has not run `mailfold topics create` since its upgrade works, and changes nothing."""
    client = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await client.start()
    try:
        await client.delete_topics([settings.topic(OPERATOR_ACTIONS.name)])
    finally:
        await client.close()
    await until(lambda: is_missing(settings))
    await topic_admin.check(settings, ROLE_TOPICS)
    refused = await mailfold_on(settings, "tenants", "add", "late", MAILFOLD_APPEND_TIMEOUT="2")
    assert (refused.code, "`mailfold topics create` makes a missing topic" in refused.err) == (1, True), refused.err
    async with open_runtime(settings, signals=False) as rt:
        assert await rows(rt, "select from admin.tenants where tenant = 'late'") == []
        assert await recent_actions(settings) is None
    assert await topic_admin.create(settings) == [settings.topic(OPERATOR_ACTIONS.name)]
    assert await actions(settings) == []
    assert (await mailfold_on(settings, "tenants", "add", "late")).code == 0


async def is_missing(settings: Settings) -> bool:
    try:
        return any("doesn't exist" in line for line in await topic_admin.differences(settings))
    except LogUnavailable:  # its configuration is gone, and it is still listed
        return False
