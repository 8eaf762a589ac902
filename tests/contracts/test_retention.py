"""What the roles delete of old rows on a real Postgres, and that everything young or owed stays."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from pipeline.jobs.retention import expiring_jobs
from pipeline.project.main import expiring_identities
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.postgres.retention import ExpiringRows, delete_batch
from pipeline.settings import Settings

DAYS = Settings(idempotency_days=30, dead_job_days=60)
JOB = (
    "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, created_at, finished_at)"
    " select %(queue)s, gen_random_uuid(), 1, %(name)s, %(lane)s, %(state)s, %(payload)s,"
    " now() - %(age)s * interval '1 day', case when %(ended)s then now() - %(age)s * interval '1 day' end"
)
ENDED = ("done", "dead", "unknown")


async def execute(pool: Pool, query: str, values: Any = None) -> None:
    async with pool.connection() as connection:
        await connection.execute(query, values)  # type: ignore[arg-type,unused-ignore]


async def column(pool: Pool, query: str) -> set[Any]:
    async with pool.connection() as connection:
        rows = await (await connection.execute(query)).fetchall()  # type: ignore[arg-type,unused-ignore]
    return {row[0] for row in rows}


async def job(pool: Pool, name: str, state: str, age: float, **values: Any) -> None:
    """Insert a job that was made ``age`` days ago and, if its state is final, ended then."""
    fields = {"queue": "emit", "lane": "acme/7", "payload": b"x"} | values
    await execute(pool, JOB, {"name": name, "state": state, "age": age, "ended": state in ENDED} | fields)


async def sweep(pool: Pool, expiring: Sequence[ExpiringRows]) -> None:
    for rows in expiring:
        while await delete_batch(pool, rows, limit=2):
            pass


async def test_old_finished_jobs_go_and_young_and_open_ones_stay(pool: Pool) -> None:
    await job(pool, "old done", "done", 31, payload=b"")
    await job(pool, "young done", "done", 29, payload=b"")
    await job(pool, "old dead", "dead", 61)
    await job(pool, "young dead", "dead", 59)
    for state in ("pending", "attempting", "unknown"):
        await job(pool, f"old {state}", state, 5000)
    await job(pool, "held until the log's end is read", "held", 5000)
    await job(pool, "held without a request", "held", 61, payload=b"")
    await job(pool, "held for a request that may come", "held", 59, payload=b"")
    await sweep(pool, expiring_jobs("emit", DAYS))
    assert await column(pool, "select name from jobs.jobs") == {
        *("young done", "young dead", "old pending", "old attempting", "old unknown"),
        *("held until the log's end is read", "held for a request that may come"),
    }


async def test_jobs_of_other_queues_stay(pool: Pool) -> None:
    for queue in ("emit", "dispatch"):
        await job(pool, queue, "done", 31, queue=queue)
    await sweep(pool, expiring_jobs("dispatch", DAYS))
    assert await column(pool, "select name from jobs.jobs") == {"emit"}


async def test_a_batch_deletes_the_oldest_rows_up_to_its_limit(pool: Pool) -> None:
    for age in (31, 32, 33, 34, 35):
        await job(pool, str(age), "done", age)
    done = expiring_jobs("emit", DAYS)[0]
    assert await delete_batch(pool, done, limit=2) == 2
    assert await column(pool, "select name from jobs.jobs") == {"31", "32", "33"}
    assert [await delete_batch(pool, done, limit=2) for _ in range(3)] == [2, 1, 0]


async def test_locked_job_is_skipped_without_waiting(pool: Pool, database_url: str) -> None:
    await job(pool, "locked", "done", 31)
    await job(pool, "free", "done", 31)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("select from jobs.jobs where name = 'locked' for update")
        await execute(pool, "set statement_timeout = '10s'")
        await sweep(pool, expiring_jobs("emit", DAYS))
        assert await column(pool, "select name from jobs.jobs") == {"locked"}
    await sweep(pool, expiring_jobs("emit", DAYS))
    assert await column(pool, "select name from jobs.jobs") == set()


async def test_lanes_go_unless_they_are_paused_open_or_have_jobs(pool: Pool) -> None:
    lanes = {
        "acme/healed": "null, 0, null",
        "acme/forgotten": "null, 2, now() - interval '2 days'",
        "acme/paused": "now(), 0, null",
        "acme/open": "null, 3, now() + interval '1 hour'",
        "acme/just closed": "null, 3, now() - interval '1 hour'",
        "acme/busy": "null, 2, now() - interval '2 days'",
    }
    for lane, values in lanes.items():
        insert = "insert into jobs.lanes (queue, lane, paused_at, failures, open_until) values ('emit', '{}', {})"
        await execute(pool, insert.format(lane, values))
    await execute(pool, "insert into jobs.lanes (queue, lane) values ('provider', 'relay')")
    await job(pool, "waiting", "pending", 3, lane="acme/busy")
    await sweep(pool, expiring_jobs("emit", DAYS))
    assert await column(pool, "select lane from jobs.lanes") == {
        *("acme/paused", "acme/open", "acme/just closed", "acme/busy", "relay")
    }


async def test_old_identities_go_and_young_ones_stay(pool: Pool) -> None:
    insert = (
        "insert into intake.identities select gen_random_uuid(), %s,"
        " (extract(epoch from now() - %s * interval '1 day') * 1000)::bigint"
    )
    for name, age in ((b"old", 31), (b"older", 500), (b"young", 29), (b"new", 0)):
        await execute(pool, insert, (name, age))
    await sweep(pool, [expiring_identities(DAYS)])
    assert await column(pool, "select fingerprint from intake.identities") == {b"young", b"new"}


@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (expiring_jobs("emit", DAYS)[0], "jobs_done"),
        (expiring_jobs("emit", DAYS)[1], "jobs_dead"),
        (expiring_jobs("emit", DAYS)[2], "jobs_held"),
        (expiring_identities(DAYS), "identities_age"),
    ],
    ids=["done", "dead", "held", "identities"],
)
async def test_expired_rows_are_found_by_an_index(pool: Pool, rows: ExpiringRows, index: str) -> None:
    async with pool.connection() as connection:
        # An empty table would be scanned at no cost.
        await connection.execute("set local enable_seqscan = off")
        await connection.execute("set local enable_bitmapscan = off")
        explained = await connection.execute("explain " + rows.statement, {**rows.values, "limit": 1000})
        plan = "\n".join(row[0] for row in await explained.fetchall())
    assert f"using {index} " in plan, plan
