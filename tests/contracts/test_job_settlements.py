"""How results are written together with the health of their lanes, on a real Postgres."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.jobs.job import DONE, EndpointHealth, release, retry
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.database import Pool, open_database
from pipeline.settings import Settings

INSERT = "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)"
LIMITS = ClaimLimits(max_jobs=20, max_jobs_per_lane=10, lease_s=5.0)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_database(Settings(database_url=SecretStr(database_url)), size=2) as opened:
        yield opened


async def ask(pool: Pool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query, values)  # type: ignore[arg-type,unused-ignore]
        return await cursor.fetchall() if cursor.description else []


async def put(pool: Pool, lane: str) -> None:
    await ask(pool, f"{INSERT} values ('emit', %s, 1, 'open', %s, 'pending', 'x')", uuid.uuid4(), lane)


def store(pool: Pool) -> JobStore:
    return JobStore(pool, "emit", LIMITS)


async def test_healthy_result_closes_the_breaker_of_its_lane_only(pool: Pool) -> None:
    await put(pool, "acme/7")
    await put(pool, "acme/8")
    jobs = {job.lane: job for job in await store(pool).claim()}
    await ask(
        pool, "insert into jobs.lanes (queue, lane, failures) values ('emit', 'acme/7', 3), ('emit', 'acme/8', 3)"
    )
    silent = release(0, "stopped")
    assert await store(pool).settle([(jobs["acme/7"], DONE), (jobs["acme/8"], silent)]) == []
    assert await ask(pool, "select lane, failures from jobs.lanes order by lane") == [("acme/7", 0), ("acme/8", 3)]


async def test_failures_are_counted_with_the_results_that_show_them(pool: Pool) -> None:
    for _ in range(2):
        await put(pool, "acme/7")
    first, second = await store(pool).claim()
    failing = retry(1, "503", EndpointHealth.FAILING)
    assert await store(pool).settle([(first, failing), (second, failing)]) == []
    assert await ask(pool, "select failures from jobs.lanes") == [(2,)]
    assert await ask(pool, "select distinct state from jobs.jobs") == [("pending",)]
