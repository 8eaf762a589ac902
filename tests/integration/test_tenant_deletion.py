"""Delete a tenant with a real log and database: what refuses it, what it removes, and what does not come back."""

import asyncio
import functools
import time
from typing import Any

import msgspec
import psycopg
import pytest

from pipeline import admin
from pipeline.admin import Brand, Destination, Provider
from pipeline.dispatch.routing.rendezvous import Route
from pipeline.dispatch.routing.routes import set_routes
from pipeline.errors import NotFound, Refused
from pipeline.operations import tenant_deletion
from pipeline.operations.rebuild import REBUILD_LOCK_ID, rebuild
from pipeline.operations.renormalize.preconditions import wait_until_caught_up
from pipeline.operations.tenant_deletion import TenantDeletion, delete_tenant, require_nothing_owed
from pipeline.project import main as project
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from projections.locks import session_lock
from projections.sink import SWAP_LOCK
from tests.conftest import RING
from tests.integration.test_templates import WELCOME, push
from tests.support.changes import Log, acked, event, request
from tests.support.command import mailfold_on
from tests.support.dispatching import dispatching
from tests.support.dispatching import request as send_request
from tests.support.gateway import Gateway, gateway
from tests.support.job_rows import ask
from tests.support.projecting import gateway_and_projector, projecting
from tests.support.seeing import rows, until
from tests.support.suppressed import publish
from tests.support.working import beside
from topics import ids
from topics.events import EventKind
from topics.registry import SEND_REQUESTS, TOPICS

TENANT_TABLES = (
    "select c.table_schema || '.' || c.table_name "
    "from information_schema.columns c join information_schema.tables t using (table_schema, table_name) "
    "where c.column_name = 'tenant' and t.table_type = 'BASE TABLE' and c.table_schema <> 'elsewhere' "
    "and c.table_name <> 'deleted_tenants'"
)
"""All tables that name the tenant of a row."""


async def tenants_of(rt: Runtime, table: str) -> set[str]:
    return {tenant for (tenant,) in await rows(rt, f"select distinct tenant from {table}")}


async def fill(served: Gateway, tenant: str) -> None:
    """Give a tenant a row of everything."""
    rt = served.rt
    await admin.add_tenant(rt.pool, admin.Tenant(tenant))
    await admin.add_provider(rt.pool, Provider("relay", host="127.0.0.1"), RING)
    await admin.add_brand(rt.pool, Brand(tenant, "1", "relay"))
    await set_routes(rt.pool, tenant, "1", [Route("relay", 1)])
    await admin.add_sender_domain(rt.pool, tenant, "shop.example")
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
    mail_id = ids.message_id(tenant, "extrahorizon", "key")
    mail = msgspec.structs.replace(request(6, now, tenant, "extrahorizon"), message_id=mail_id)
    await publish(served, *logs, Log().fold(mail))
    reserve = "insert into intake.identities (email_id, fingerprint, recorded_at) values (%s, 'x', 0)"
    await ask(rt.pool, reserve, mail_id)
    await ask(
        rt.pool,
        "with export as (insert into exports.jobs (export_id, tenant, request, as_of) "
        "values (gen_random_uuid(), %s, 'x', 0) returning export_id) "
        "insert into exports.chunks (export_id, nth, first_byte, data) select export_id, 0, 0, 'x' from export",
        tenant,
    )
    await ask(rt.pool, "insert into admin.analytics_readers (role, tenant) values ('reader', %s)", tenant)
    await ask(rt.pool, "insert into jobs.lanes (queue, lane) values ('dispatch', %s)", f"{tenant}/1")
    # Nobody settles them in this test: they went out.
    await rows(rt, "update jobs.jobs set state = 'done', finished_at = now(), payload = '' returning 1")


async def deletable(rt: Runtime, tenant: str) -> None:
    """Suspend a tenant a while ago."""
    await admin.suspend_tenant(rt.pool, tenant)
    query = "update admin.tenants set suspended_at = now() - interval '1 minute' where tenant = %s returning 1"
    await rows(rt, query, tenant)


async def deleted(rt: Runtime, tenant: str, *, discard: bool = False) -> TenantDeletion:
    """Delete a tenant as the command does."""
    suspended_at = await require_nothing_owed(rt, tenant, discard=discard)
    return await delete_tenant(rt, tenant, suspended_at, discard=discard)


async def test_everything_of_a_tenant_is_deleted_and_nothing_of_another(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_deletion, "PAGE_EMAILS", 3)
    monkeypatch.setattr(tenant_deletion, "BATCH_ROWS", 1)
    monkeypatch.setattr(tenant_deletion, "BATCH_BLOCKS", 1)
    async with gateway_and_projector(settings) as served:
        for tenant in ("acme", "other"):
            await fill(served, tenant)
        tables = [table for (table,) in await rows(served.rt, TENANT_TABLES)]
        before = {table: await tenants_of(served.rt, table) for table in tables}
        assert before == {table: {"acme", "other"} for table in tables}
        others = await _counts(served.rt)
        await deletable(served.rt, "acme")
        await ask(served.rt.pool, "create schema elsewhere")
        await ask(served.rt.pool, "create table elsewhere.orders as select 'acme' as tenant")
        deletion = await deleted(served.rt, "acme")
        assert await tenants_of(served.rt, "elsewhere.orders") == {"acme"}, "another program's table"
        assert deletion.emails == 6
        assert deletion.rows["projections.evidence"] == 5
        after = {table: await tenants_of(served.rt, table) for table in tables}
        assert after == {table: {"other"} for table in tables}
        assert {table: 2 * count for table, count in (await _counts(served.rt)).items()} == others
        assert (await served.post([])).status_code in (401, 403)
        assert (await deleted(served.rt, "acme")).emails == 0, "a repeated deletion finds nothing"
        [(finished,)] = await rows(served.rt, "select finished_at is not null from admin.deleted_tenants")
        assert finished


async def _counts(rt: Runtime) -> dict[str, int]:
    names = (
        "projections.timeline",
        "jobs.jobs",
        "jobs.lanes",
        "exports.chunks",
        "intake.identities",
        "intake.template_versions",
    )
    return {name: (await rows(rt, f"select count(*) from {name}"))[0][0] for name in names}


async def test_transactions_that_do_not_know_of_the_deletion_are_waited_for(settings: Settings) -> None:
    async with open_runtime(settings, signals=False) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        [(suspended_at,)] = await rows(rt, "select suspended_at from admin.tenants")
        async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as projecting:
            await projecting.execute("select pg_advisory_xact_lock_shared(%s)", (SWAP_LOCK,))
            await projecting.execute(
                "insert into projections.evidence (tenant, brand, address_hash, email_id, reason, event_id, at) "
                "values ('acme', '1', 'x', gen_random_uuid(), 'hard', 'x', 0)"
            )
            deleting = asyncio.ensure_future(delete_tenant(rt, "acme", suspended_at))
            await until(lambda: rows(rt, "select 1 from pg_locks where locktype = 'advisory' and not granted"))
            await projecting.commit()
        await deleting
        assert await tenants_of(rt, "projections.evidence") == set()


async def test_deleted_tenant_stays_deleted_when_it_is_rebuilt_or_events_come_late(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        for tenant in ("acme", "other"):
            await fill(served, tenant)
        await deletable(served.rt, "acme")
        await deleted(served.rt, "acme")
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
        assert (await deleted(rt, "acme", discard=True)).rows["jobs.jobs"] == 1
        assert await rows(rt, "select 1 from jobs.jobs") == []


async def test_deletion_is_refused_where_something_changed_while_the_prompt_waited(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        suspended_at = await require_nothing_owed(rt, "acme")
        await rows(rt, f"{JOB} ('emit', gen_random_uuid(), 1, 'x', 'acme/7', 'pending', 'x') returning 1")
        with pytest.raises(Refused, match=r"1 conversions \(pending\)"):
            await delete_tenant(rt, "acme", suspended_at)
        await admin.resume_tenant(rt.pool, "acme")
        await admin.suspend_tenant(rt.pool, "acme")
        with pytest.raises(Refused, match="was resumed meanwhile"):
            await delete_tenant(rt, "acme", suspended_at, discard=True)
        assert await rows(rt, "select tenant from admin.tenants") == [("acme",)]
        assert len(await rows(rt, "select 1 from jobs.jobs")) == 1


async def test_deletion_waits_for_gateways_that_looked_the_tenant_up_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "SUSPENSION_DELAY_S", 0)
    async with projecting(settings.model_copy(update={"append_timeout": 1.0})) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await admin.suspend_tenant(rt.pool, "acme")
        # The roles may be behind, which does not matter here: they are waited for afterwards.
        monkeypatch.setattr(tenant_deletion, "wait_until_caught_up", nothing)
        await require_nothing_owed(rt, "acme")
        query = "select clock_timestamp() - suspended_at >= interval '1 second' from admin.tenants"
        assert await rows(rt, query) == [(True,)]


async def nothing(_rt: Runtime, **_more: Any) -> None:
    """Wait for no role."""


async def test_discarding_waits_for_emails_that_are_being_sent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_deletion, "MAX_SENDING_WAIT_S", 0)
    async with projecting(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        insert = JOB.replace("payload", "payload, due_at")
        lease = "now() + interval '1 minute'"
        await rows(
            rt, f"{insert} ('dispatch', gen_random_uuid(), 1, 'x', 'acme/7', 'attempting', 'x', {lease}) returning 1"
        )
        with pytest.raises(Refused, match="1 emails of tenant acme are still being sent"):
            await require_nothing_owed(rt, "acme", discard=True)
        await rows(rt, "update jobs.jobs set due_at = now() - interval '1 second' returning 1")
        await require_nothing_owed(rt, "acme", discard=True)


async def test_deletion_is_refused_beside_processes_of_another_version(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        await deletable(rt, "acme")
        url = settings.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url, application_name="mailfold/0.0.7"):
            with pytest.raises(Refused, match=r"are connected.*\(0\.0\.7\)"):
                await require_nothing_owed(rt, "acme")
            assert await require_nothing_owed(rt, "acme", force=True)


async def test_tenant_that_is_added_while_it_is_deleted_does_not_come_back(settings: Settings) -> None:
    async with open_runtime(settings, signals=False) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        url = settings.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url) as deleting:
            await deleting.execute("insert into admin.deleted_tenants (tenant) values ('acme')")
            await deleting.execute("delete from admin.tenants")
            adding = asyncio.ensure_future(admin.add_tenant(rt.pool, admin.Tenant("acme")))
            waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%%admin.tenants%%'"
            await until(lambda: rows(rt, waiting))
        with pytest.raises(Refused, match="choose another name"):
            await adding
        assert await rows(rt, "select 1 from admin.tenants") == []


async def test_deletion_is_refused_while_the_tenant_may_send(settings: Settings) -> None:
    async with gateway(settings) as served:
        with pytest.raises(Refused, match="mailfold tenants suspend acme"):
            await require_nothing_owed(served.rt, "acme")
        with pytest.raises(Refused, match="was resumed meanwhile"):
            await delete_tenant(served.rt, "acme", None)
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
                await delete_tenant(rt, "acme", None)
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
