"""Let weeks pass in seconds, and see that tables and indexes which expire stop growing; `make soak` lets years pass.

Days are simulated: rows are written with the times of each day, and the deletions are told which day it is.
"""

import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.gateway.idempotency import reserve_ids
from pipeline.jobs.retention import expiring_jobs
from pipeline.project.main import expiring_identities
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.postgres.retention import BATCH_ROWS, delete_batch
from pipeline.settings import Settings
from tests.support.changes import identified
from topics.registry import DAY_MS

DAYS = int(os.environ.get("SOAK_DAYS", "30"))
EMAILS = int(os.environ.get("SOAK_EMAILS", "300"))
"""Emails per simulated day; each has an identity, a job of dispatch and two of emit."""
KEPT_DAYS = 7
MAX_GROWTH = 1.3
"""Indexes of random keys fill less evenly with time: 15 % more after two years, where no deletion means fifty-fold."""
QUEUES = ("dispatch", "emit")
# As jobs live: inserted with a payload, leased, settled without it.
INSERT = (
    "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)"
    " select %(queue)s, stream, seq, 'word ' || seq, 'acme/7', 'pending', repeat('x', 600)::bytea"
    " from unnest(%(streams)s::uuid[]) stream, generate_series(1, %(jobs)s) seq"
)
LEASE = "update jobs.jobs set state = 'attempting', attempts = 1 where state = 'pending'"
SETTLE = (
    "update jobs.jobs set state = 'done', payload = '', finished_at = to_timestamp(%(now)s / 1000.0)"
    " where state = 'attempting'"
)
SIZES = "select pg_relation_size(t::regclass), pg_indexes_size(t::regclass) from unnest(%s::text[]) t"
TABLES = ["jobs.jobs", "intake.identities"]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_database(Settings(database_url=SecretStr(database_url)), size=2) as opened:
        yield opened


async def pass_day(pool: Pool, day: int, now: int) -> None:
    """Accept, send and report one day's emails, at the simulated time ``now``."""
    ids = [identified(day * EMAILS + number) for number in range(EMAILS)]
    assert await reserve_ids(pool, dict.fromkeys(ids, b"fingerprint"), now) == set()
    async with pool.connection() as connection:
        for queue, jobs in zip(QUEUES, (1, 2), strict=True):
            await connection.execute(INSERT, {"queue": queue, "streams": ids, "jobs": jobs})
    for statement in (LEASE, SETTLE):
        async with pool.connection() as connection:
            await connection.execute(statement, {"now": now})


async def expire(pool: Pool, now: int) -> None:
    """Delete what is expired at the simulated time ``now``, as the roles do, and vacuum, as Postgres does by itself."""
    behind_days = (time.time() * 1000 - now) / DAY_MS
    settings = Settings(idempotency_days=KEPT_DAYS + behind_days)
    rows = [*(row for queue in QUEUES for row in expiring_jobs(queue, settings)), expiring_identities(settings)]
    for each in rows:
        while await delete_batch(pool, each) == BATCH_ROWS:
            pass
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        await connection.execute("vacuum (analyze) jobs.jobs, intake.identities")
        await connection.set_autocommit(False)


async def sizes(pool: Pool) -> tuple[int, ...]:
    """Return the bytes of each table and of its indexes."""
    async with pool.connection() as connection:
        rows: Any = await (await connection.execute(SIZES, (TABLES,))).fetchall()
    return tuple(int(size) for row in rows for size in row)


@pytest.mark.timeout(7200)
async def test_tables_and_indexes_reach_a_plateau(pool: Pool) -> None:
    began = int(time.time() * 1000) - (DAYS + 1) * DAY_MS
    measured = []
    for day in range(DAYS):
        now = began + day * DAY_MS
        await pass_day(pool, day, now)
        await expire(pool, now)
        measured.append(await sizes(pool))
    # After twice the time for which rows are kept, space is used again instead of more.
    settled = measured[2 * KEPT_DAYS :]
    names = [f"{what} {table}" for table in TABLES for what in ("table", "indexes of")]
    for name, figures in zip(names, zip(*settled, strict=True), strict=True):
        print(f"{name}: {figures[0]:,} bytes after {2 * KEPT_DAYS} days, {figures[-1]:,} after {DAYS}")
        assert max(figures) <= figures[0] * MAX_GROWTH, figures
