"""Delete a tenant with a real log and database: what refuses it, what it removes, and what does not come back."""

import functools
import time
from typing import Any

import pytest

from pipeline import admin
from pipeline.admin import Brand, Destination, Provider
from pipeline.errors import NotFound, Refused
from pipeline.operations import tenant_deletion
from pipeline.operations.rebuild import REBUILD_LOCK_ID, rebuild
from pipeline.operations.renormalize.preconditions import wait_until_caught_up
from pipeline.operations.tenant_deletion import delete_tenant, require_nothing_owed
from pipeline.project import main as project
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from projections.locks import session_lock
from tests.conftest import RING
from tests.integration.test_templates import WELCOME, push
from tests.support.changes import Log, acked, event, request
from tests.support.command import mailfold_on
from tests.support.dispatching import dispatching
from tests.support.dispatching import request as send_request
from tests.support.gateway import Gateway, gateway
from tests.support.projecting import gateway_and_projector, projecting
from tests.support.seeing import rows, until
from tests.support.suppressed import publish
from tests.support.working import beside
from topics.events import EventKind
from topics.registry import SEND_REQUESTS, TOPICS

TENANT_TABLES = (
    *("admin.tenants", "admin.api_keys", "admin.brands", "admin.destinations", "projections.history"),
    *("projections.versions", "projections.evidence", "templates.versions", "suppressions.decisions"),
)


async def tenants_of(rt: Runtime, table: str) -> set[str]:
    return {tenant for (tenant,) in await rows(rt, f"select distinct tenant from {table}")}


async def fill(served: Gateway, tenant: str) -> None:
    """Give a tenant a row of everything."""
    rt = served.rt
    await admin.add_tenant(rt.pool, admin.Tenant(tenant))
    await admin.add_provider(rt.pool, Provider("relay", host="127.0.0.1"), RING)
    await admin.add_brand(rt.pool, Brand(tenant, "1", "relay"))
    await admin.add_destination(rt.pool, Destination(tenant, "1", "https://fasttrack.example", "k"), RING)
    headers = {"X-Api-Key": await admin.add_key(rt.pool, tenant)}
    await push(served, "welcome", WELCOME, headers["X-Api-Key"])
    listed = {"address": "anna@example.com", "brand": "1"}
    assert (await served.http.post("/suppressions", json=listed, headers=headers)).status_code < 300
    now = time.time_ns() // 1_000_000 - 60_000
    logs = []
    for number in range(1, 6):
        log = Log().fold(request(number, now, tenant)).fold(acked(number, now + 10, tenant))
        logs.append(log.fold(event(number, EventKind.BOUNCED, now + 20, tenant)))
    await publish(served, *logs)
    # Nobody settles them in this test: they went out.
    await rows(rt, "update jobs.jobs set state = 'done', finished_at = now(), payload = '' returning 1")


async def deletable(rt: Runtime, tenant: str) -> None:
    """Suspend a tenant a while ago."""
    await admin.suspend_tenant(rt.pool, tenant)
    query = "update admin.tenants set suspended_at = now() - interval '1 minute' where tenant = %s returning 1"
    await rows(rt, query, tenant)


async def test_everything_of_a_tenant_is_deleted_and_nothing_of_another(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_deletion, "PAGE_EMAILS", 3)
    monkeypatch.setattr(tenant_deletion, "BATCH_ROWS", 1)
    async with gateway_and_projector(settings) as served:
        for tenant in ("acme", "other"):
            await fill(served, tenant)
        before = {table: await tenants_of(served.rt, table) for table in TENANT_TABLES}
        assert before == {table: {"acme", "other"} for table in TENANT_TABLES}
        others = await _counts(served.rt)
        await deletable(served.rt, "acme")
        await require_nothing_owed(served.rt, "acme")
        deletion = await delete_tenant(served.rt, "acme")
        assert deletion.emails == 5
        assert deletion.rows["projections.evidence"] == 5
        for schema, table in await rows(served.rt, tenant_deletion.SQL["tables_with_tenant"]):
            assert "acme" not in await tenants_of(served.rt, f"{schema}.{table}"), table
        after = {table: await tenants_of(served.rt, table) for table in TENANT_TABLES}
        assert after == {table: {"other"} for table in TENANT_TABLES}
        assert {table: 2 * count for table, count in (await _counts(served.rt)).items()} == others
        assert (await served.post([])).status_code in (401, 403)
        assert (await delete_tenant(served.rt, "acme")).emails == 0, "a repeated deletion finds nothing"
        [(finished,)] = await rows(served.rt, "select finished_at is not null from admin.deleted_tenants")
        assert finished


async def _counts(rt: Runtime) -> dict[str, int]:
    names = ("projections.timeline", "jobs.jobs", "intake.identities", "intake.template_versions")
    return {name: (await rows(rt, f"select count(*) from {name}"))[0][0] for name in names}


async def test_deleted_tenant_stays_deleted_when_it_is_rebuilt_or_events_come_late(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        for tenant in ("acme", "other"):
            await fill(served, tenant)
        await deletable(served.rt, "acme")
        await delete_tenant(served.rt, "acme")
        now = time.time_ns() // 1_000_000
        late = Log().fold(request(1, now - 60_000), acked(1, now - 59_000), event(1, EventKind.BOUNCED, now, nth=9))
        await publish(served, late)
        assert await tenants_of(served.rt, "projections.history") == {"other"}
        result = await rebuild(served.rt, lambda _read, _total: None)
        assert (list(result.differences), result.swapped) == ([], True)
        for table in ("projections.history", "projections.evidence", "projections.versions"):
            assert await tenants_of(served.rt, table) == {"other"}
        for table in ("templates.versions", "suppressions.decisions"):
            await rows(served.rt, f"delete from {table} returning 1")
        for schema in ("templates", "suppressions"):
            await rows(served.rt, f"update {schema}.next_offsets set next_offset = 0 returning 1")
        for table in ("templates.versions", "suppressions.decisions"):
            await until(functools.partial(tenants_of, served.rt, table))
            assert await tenants_of(served.rt, table) == {"other"}


async def test_requests_of_deleted_tenant_become_no_jobs(settings: Settings) -> None:
    async with dispatching(settings) as rt:
        await rows(rt, "insert into admin.deleted_tenants (tenant) values ('gone') returning 1")
        for tenant in ("gone", "acme"):
            sent = send_request("anna@example.com", tenant=tenant)
            await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent)])
        await until(lambda: rows(rt, "select 1 from jobs.jobs where lane = 'acme/7'"))
        sent = send_request("ben@example.com", tenant="acme", brand="8")
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent)])
        await until(lambda: rows(rt, "select 1 from jobs.jobs where lane = 'acme/8'"))
        assert await rows(rt, "select 1 from jobs.jobs where lane like 'gone/%%'") == []


JOB = "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload) values"


@pytest.mark.parametrize(
    ("queue", "state", "words"),
    [
        ("dispatch", "pending", r"1 emails to send \(pending\)"),
        ("emit", "dead", r"1 conversions \(dead\)"),
    ],
)
async def test_deletion_is_refused_while_something_is_owed(
    settings: Settings, queue: str, state: str, words: str
) -> None:
    async with projecting(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        insert = f"{JOB} (%s, gen_random_uuid(), 1, 'x', 'acme/7', %s, 'x') returning 1"
        await rows(rt, insert, queue, state)
        with pytest.raises(Refused, match=words):
            await require_nothing_owed(rt, "acme")
        await require_nothing_owed(rt, "acme", discard=True)
        assert (await delete_tenant(rt, "acme")).rows["jobs.jobs"] == 1
        assert await rows(rt, "select 1 from jobs.jobs") == []


async def test_deletion_is_refused_while_the_tenant_may_send(settings: Settings) -> None:
    async with gateway(settings) as served:
        with pytest.raises(Refused, match="mailfold tenants suspend acme"):
            await require_nothing_owed(served.rt, "acme")
        with pytest.raises(Refused, match="was resumed meanwhile"):
            await delete_tenant(served.rt, "acme")
        with pytest.raises(NotFound, match="no tenant nobody"):
            await require_nothing_owed(served.rt, "nobody")
        assert await rows(served.rt, "select 1 from admin.deleted_tenants") == []


async def test_deletion_is_refused_while_a_role_has_not_read_the_log(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_runtime(settings, signals=False) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        sent = send_request("anna@example.com")
        await append_all(rt.log, [LogEntry(SEND_REQUESTS, sent.email_id, sent)])

        async def impatiently(rt: Runtime, **more: Any) -> None:
            await wait_until_caught_up(rt, 0.5, **more)

        monkeypatch.setattr(tenant_deletion, "wait_until_caught_up", impatiently)
        with pytest.raises(Refused, match="dispatch is behind by 1 records of send-requests"):
            await require_nothing_owed(rt, "acme")


async def test_deletion_waits_for_projections_that_do_not_know_of_it(settings: Settings) -> None:
    async with open_runtime(settings, signals=False) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        async with session_lock(settings.database_url.get_secret_value(), REBUILD_LOCK_ID):
            with pytest.raises(Refused, match="another rebuild"):
                await delete_tenant(rt, "acme")
        assert await rows(rt, "select tenant from admin.tenants") == [("acme",)]


@pytest.mark.ci
async def test_command_asks_for_the_name_and_says_what_remains(settings: Settings) -> None:
    async with gateway(settings) as served, beside(served.rt, project.run):
        await deletable(served.rt, "acme")
        refused = await mailfold_on(settings, "tenants", "delete", "acme", stdin="other\n")
        assert (refused.code, "nothing is deleted" in refused.err) == (1, True)
        done = await mailfold_on(settings, "tenants", "delete", "acme", stdin="acme\n")
        assert (done.code, "tenant acme is deleted: 0 emails" in done.out) == (0, True), done.err
        for topic in TOPICS:
            assert settings.topic(topic.name) in done.out
        again = await mailfold_on(settings, "tenants", "delete", "acme", "--yes")
        assert again.code == 0
        added = await mailfold_on(settings, "tenants", "add", "acme")
        assert (added.code, "choose another name" in added.err) == (1, True)
