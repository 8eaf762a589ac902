"""How results are written together with the health of their lanes, on a real Postgres."""

import uuid

from pipeline.jobs.job import DONE, EndpointHealth, release, retry
from pipeline.runtime.postgres.database import Pool
from tests.support.job_rows import INSERT_JOBS, ask, emit_store


async def put(pool: Pool, lane: str) -> None:
    await ask(pool, f"{INSERT_JOBS} values ('emit', %s, 1, 'open', %s, 'pending', 'x')", uuid.uuid4(), lane)


async def test_healthy_result_closes_the_breaker_of_its_lane_only(pool: Pool) -> None:
    await put(pool, "acme/7")
    await put(pool, "acme/8")
    jobs = {job.lane: job for job in await emit_store(pool).claim()}
    await ask(
        pool, "insert into jobs.lanes (queue, lane, failures) values ('emit', 'acme/7', 3), ('emit', 'acme/8', 3)"
    )
    silent = release(0, "stopped")
    assert await emit_store(pool).settle([(jobs["acme/7"], DONE), (jobs["acme/8"], silent)]) == []
    assert await ask(pool, "select lane, failures from jobs.lanes order by lane") == [("acme/7", 0), ("acme/8", 3)]


async def test_failures_are_counted_with_the_results_that_show_them(pool: Pool) -> None:
    for _ in range(2):
        await put(pool, "acme/7")
    first, second = await emit_store(pool).claim()
    failing = retry(1, "503", EndpointHealth.FAILING)
    assert await emit_store(pool).settle([(first, failing), (second, failing)]) == []
    assert await ask(pool, "select failures from jobs.lanes") == [(2,)]
    assert await ask(pool, "select distinct state from jobs.jobs") == [("pending",)]
