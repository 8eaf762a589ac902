"""A role that may read the analytics sees the tenants that it was given, and nothing else."""

import functools
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from pipeline.admin.analytics import (
    ALL_TENANTS,
    grant_analytics,
    list_analytics_readers,
    revoke_analytics,
)
from pipeline.errors import NotFound
from pipeline.operations.rebuild import rebuild
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from pipeline.settings import Settings
from projections.email_facets import EmailFact, fact_bit
from projections.migrate import MIGRATIONS
from projections.sink import ChangeBatch, Sink
from tests.conftest import RING
from tests.support.changes import Log, lives
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import rows, until

SINK = Sink(functools.partial(hash_address, AddressHasher(RING)))
VIEWS = ("emails", "events", "daily_statistics")
Connection = psycopg.AsyncConnection[Any]


def silent(_done: int, _total: int) -> None: ...


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[str]:
    """Yield a role of its own, which is dropped after the test."""
    role = f"reader_{settings.topic_prefix.strip('-_.').replace('-', '_')}"[:60]
    url = settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(sql.SQL("create role {} login password 'reader'").format(sql.Identifier(role)))
        yield role
        await connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
        await connection.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


async def read(settings: Settings, role: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query of a session that logged in as the role."""
    parts = urlsplit(settings.database_url.get_secret_value())
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{role}:reader@{host}"))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def project(rt: Runtime, log: Log) -> None:
    async with rt.pool.connection() as connection:
        await SINK.start(connection, log.partition, 0, 0)
        await SINK.apply(connection, ChangeBatch(log.partition, 0, len(log.changes), log.changes))


async def two_tenants(rt: Runtime) -> None:
    await project(rt, lives(41, 12, partition=0, campaigns=3))
    await project(rt, lives(42, 8, partition=1, tenant="other"))


async def test_role_sees_its_tenant_and_no_table(settings: Settings, reader: str) -> None:
    async with open_runtime(settings) as rt:
        await two_tenants(rt)
        await grant_analytics(rt.pool, reader, "acme")
        tables = await rows(
            rt,
            "select schemaname || '.' || tablename from pg_tables "
            "where schemaname not in ('pg_catalog', 'information_schema')",
        )
    for view in VIEWS:
        assert await read(settings, reader, f"select distinct tenant from analytics.{view}") == [("acme",)]
    assert await read(settings, reader, "select count(*) from analytics.emails") == [(12,)]
    assert len(tables) > 20
    for (name,) in tables:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await read(settings, reader, f"select * from {name} limit 1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await read(settings, reader, "create table analytics.mine (a int)")


async def test_other_tenants_rows_reach_no_function_of_the_reader(settings: Settings, reader: str) -> None:
    """Without a security barrier, a cheap function in a condition would see rows before they are left out."""
    async with open_runtime(settings) as rt:
        await two_tenants(rt)
        await grant_analytics(rt.pool, reader, "acme")
    leak = "do $$ begin create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 as "
    leak += "'begin if $1 = ''other'' then raise exception ''leaked''; end if; return true; end'; "
    leak += "perform * from analytics.emails where pg_temp.leak(tenant); end $$; select 1"
    parts = urlsplit(settings.database_url.get_secret_value())
    url = urlunsplit(parts._replace(netloc=f"{reader}:reader@{parts.netloc.rpartition('@')[2]}"))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(leak.encode())


async def test_all_tenants_or_none(settings: Settings, reader: str) -> None:
    async with open_runtime(settings) as rt:
        await two_tenants(rt)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await read(settings, reader, "select count(*) from analytics.emails")
        await grant_analytics(rt.pool, reader, ALL_TENANTS)
        assert await list_analytics_readers(rt.pool) == [(reader, "*")]
        assert await read(settings, reader, "select count(*) from analytics.emails") == [(20,)]
        await revoke_analytics(rt.pool, reader)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await read(settings, reader, "select count(*) from analytics.emails")
        with pytest.raises(NotFound):
            await revoke_analytics(rt.pool, reader)
        with pytest.raises(NotFound, match="create role"):
            await grant_analytics(rt.pool, "nobody_at_all", "acme")


async def test_views_show_the_tables_that_a_rebuild_swapped_in(settings: Settings, reader: str) -> None:
    counts = (
        "select count(*) from analytics.emails",
        "select sum(accepted)::bigint from analytics.daily_statistics where view = 'cohort'",
        "select count(*) from analytics.events",
    )
    async with projecting(settings) as rt:
        await publish(rt, lives(43, 30, campaigns=3).changes)
        await until(lambda: caught_up(rt))
        await grant_analytics(rt.pool, reader, "acme")
        before = [await read(settings, reader, query) for query in counts]
        await publish(rt, lives(44, 45, campaigns=3).changes)
        assert (await rebuild(rt, silent)).swapped
        await until(lambda: caught_up(rt))
        after = [await read(settings, reader, query) for query in counts]
        barriers = "select reloptions from pg_class where relkind = 'v' and relnamespace = 'analytics'::regnamespace"
        assert await rows(rt, barriers) == [(["security_barrier=true"],)] * len(VIEWS)
    assert (before[0], after[0]) == (before[1], after[1]) == ([(30,)], [(45,)])
    assert after[2] > before[2]


async def test_views_agree_with_each_other_and_are_described(settings: Settings, reader: str) -> None:
    async with open_runtime(settings) as rt:
        await two_tenants(rt)
        await grant_analytics(rt.pool, reader, ALL_TENANTS)
        described = await rows(
            rt,
            "select relname, obj_description(oid) like 'version 1: %' from pg_class "
            "where relkind = 'v' and relnamespace = 'analytics'::regnamespace order by 1",
        )
    assert described == [(view, True) for view in sorted(VIEWS)]
    counts = "count(*), count(*) filter (where is_delivered), count(*) filter (where is_bounced)"
    by_email = await read(settings, reader, f"select {counts} from analytics.emails")
    sums = "sum(accepted)::bigint, sum(delivered)::bigint, sum(bounced)::bigint"
    for view in ("cohort", "event"):
        query = f"select {sums} from analytics.daily_statistics where view = '{view}'"
        assert await read(settings, reader, query) == by_email
    [(accepted,)] = await read(settings, reader, "select count(*) from analytics.events where kind = 'accepted'")
    assert accepted == by_email[0][0]


def test_bits_in_the_view_are_those_of_the_facts() -> None:
    view = (MIGRATIONS / "020_statistics_analytics.sql").read_text(encoding="utf-8")
    for name, fact in (
        ("is_delivered", EmailFact.DELIVERED),
        ("is_bounced", EmailFact.BOUNCED),
        ("is_complained", EmailFact.COMPLAINED),
        ("is_dropped", EmailFact.DROPPED),
        ("is_failed", EmailFact.FAILED),
        ("is_unsubscribed", EmailFact.UNSUBSCRIBED),
        ("is_opened_by_human", EmailFact.OPENED),
        ("is_opened_by_machine", EmailFact.OPENED_MACHINE),
        ("is_clicked_by_human", EmailFact.CLICKED),
        ("is_clicked_by_machine", EmailFact.CLICKED_MACHINE),
    ):
        assert f"(h.facts & {fact_bit(fact)}) <> 0 as {name}" in view
