"""Each role deletes the old rows that it owns, and the page about retention names every table."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from pipeline.dispatch import main as dispatch
from pipeline.emit import main as emit
from pipeline.jobs.retention import expiring_jobs
from pipeline.project import main as project
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.postgres.retention import ExpiringRows, run_retention
from pipeline.settings import Settings
from projections.sink import Sink
from tests.architecture.repository import section, table, text
from tests.support.changes import T0, Log, conversion_result, event, request
from tests.support.seeing import rows, until
from tests.support.working import Role, beside
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind

PAGE = "docs/reference/retention.md"
OLD_JOB = (
    "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, finished_at)"
    " values (%s, gen_random_uuid(), 1, 'old', 'acme/7', 'done', '', now() - interval '401 days')"
)
OLD_IDENTITY = "insert into intake.identities values (gen_random_uuid(), 'old', 1)"


async def execute(rt: Runtime, query: str, *values: Any) -> None:
    async with rt.pool.connection() as connection:
        await connection.execute(query, values)  # type: ignore[arg-type,unused-ignore]


@pytest.mark.parametrize(
    ("role", "insert", "values", "count"),
    [
        (dispatch.run, OLD_JOB, ("dispatch",), "select count(*) from jobs.jobs"),
        (emit.run, OLD_JOB, ("emit",), "select count(*) from jobs.jobs"),
        (project.run, OLD_IDENTITY, (), "select count(*) from intake.identities"),
    ],
    ids=["dispatch", "emit", "project"],
)
async def test_role_deletes_old_rows_while_it_works(
    settings: Settings, role: Role, insert: str, values: tuple[str, ...], count: str
) -> None:
    async with open_runtime(settings, pool_size=6, signals=False) as rt:
        await execute(rt, insert, *values)

        async def is_empty() -> bool:
            return await rows(rt, count) == [(0,)]

        async with beside(rt, role):
            await until(is_empty)


async def test_late_fact_sends_no_conversion_again_whose_job_expired(settings: Settings) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    log.fold(conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0))
    log.fold(event(1, EventKind.OPENED, T0 + 5))
    sink, (before, late) = Sink(str.encode), log.runs(3)
    async with open_runtime(settings, signals=False) as rt, rt.pool.connection() as connection:
        await connection.set_autocommit(True)
        await sink.start(connection, 0, 0, 0)
        await sink.apply(connection, before)
        await connection.execute("update jobs.jobs set finished_at = now() - interval '401 days' where state = 'done'")
        for expiring in expiring_jobs(emit.QUEUE, settings):
            await connection.execute(expiring.statement, {**expiring.values, "limit": 10})
        assert await rows(rt, "select name from jobs.jobs") == []
        await sink.apply(connection, late)
        assert await rows(rt, "select name, state from jobs.jobs") == [("open", "pending")]


async def test_role_goes_on_where_postgres_refuses_a_deletion() -> None:
    stop = asyncio.Event()

    class BrokenPool:
        """A pool whose database is being stopped."""

        def connection(self) -> Any:
            stop.set()
            raise psycopg.errors.AdminShutdown("terminating connection")

    rt = cast("Runtime", SimpleNamespace(pool=BrokenPool(), stop=stop))
    async with asyncio.timeout(10):
        await run_retention(rt, [ExpiringRows("jobs.jobs", "delete from jobs.jobs", {})])
    assert stop.is_set()


async def test_page_names_every_table(settings: Settings) -> None:
    query = (
        "select schemaname || '.' || tablename from pg_tables"
        " where schemaname not in ('pg_catalog', 'information_schema')"
    )
    async with open_runtime(settings, signals=False) as rt:
        tables = {name for (name,) in await rows(rt, query)}
    named = {name for row in table(section(text(PAGE), "Postgres")) for name in row[0].split(", ")}
    assert named == tables
