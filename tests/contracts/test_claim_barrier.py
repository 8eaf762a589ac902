"""The contract of the barrier before the claims of jobs, on a real Postgres."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from pydantic import SecretStr

from pipeline.errors import DatabaseReplaced
from pipeline.jobs.engine import JobEngine, Lease
from pipeline.jobs.job import DONE, Job, JobResult
from pipeline.jobs.metrics import JobMetrics
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.observing.role_metrics import RoleMetrics
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.settings import Settings
from tests.support.job_rows import ask
from tests.support.seeing import until

LIMITS = ClaimLimits(max_jobs=20, max_jobs_per_lane=10, lease_s=0.6)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with open_database(Settings(database_url=SecretStr(database_url)), size=8) as opened:
        for _ in range(3):
            job = "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)"
            await ask(opened, f"{job} values ('dispatch', %s, 0, 'send', 'acme/7', 'pending', '')", uuid.uuid4())
        yield opened


async def started_at(pool: Pool) -> datetime:
    [(server,)] = await ask(pool, "select pg_postmaster_start_time()")
    assert isinstance(server, datetime)
    return server


async def test_jobs_of_another_server_are_not_claimed(pool: Pool) -> None:
    store, server = JobStore(pool, "dispatch", LIMITS), await started_at(pool)
    with pytest.raises(DatabaseReplaced):
        await store.claim(server=server - timedelta(seconds=1))
    assert await ask(pool, "select distinct state, attempts from jobs.jobs") == [("pending", 0)]
    assert len(await store.claim(server=server)) == 3


async def test_another_server_is_noticed_where_no_job_is_due(pool: Pool) -> None:
    store, server = JobStore(pool, "emit", LIMITS), await started_at(pool)
    assert await store.claim(server=server) == []
    with pytest.raises(DatabaseReplaced):
        await store.claim(server=server - timedelta(seconds=1))


class SlowBarrier:
    """A barrier that is passed at the third question, for a server that is gone then, and for this one at the fifth."""

    def __init__(self, server: datetime) -> None:
        self.answers = [None, None, server - timedelta(seconds=1), None, server]

    async def passed_on(self) -> datetime | None:
        return self.answers.pop(0)


async def test_engine_claims_nothing_before_its_barrier_and_asks_again_on_another_server(pool: Pool) -> None:
    barrier = SlowBarrier(await started_at(pool))
    unasked: list[int] = []

    async def work(_job: Job, _lease: Lease) -> JobResult:
        unasked.append(len(barrier.answers))
        return DONE

    stop, store = asyncio.Event(), JobStore(pool, "dispatch", LIMITS)
    metrics = JobMetrics(RoleMetrics(), "dispatch")
    engine = JobEngine(store, LIMITS, work, (1.0,), conninfo=str(pool.conninfo), metrics=metrics, barrier=barrier)
    running = asyncio.create_task(engine.run(stop))
    await until(lambda: len(unasked) == 3, watched=running)
    stop.set()
    await running
    assert unasked == [0, 0, 0]
    assert await ask(pool, "select distinct state from jobs.jobs") == [("done",)]


class EndlessBarrier:
    """A barrier that waits for a server that does not answer."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()

    async def passed_on(self) -> datetime | None:
        self.is_asked.set()
        await asyncio.sleep(3600)
        raise AssertionError


async def test_engine_that_waits_at_its_barrier_ends_at_once(pool: Pool) -> None:
    async def work(_job: Job, _lease: Lease) -> JobResult:
        raise AssertionError

    stop, barrier, store = asyncio.Event(), EndlessBarrier(), JobStore(pool, "dispatch", LIMITS)
    metrics = JobMetrics(RoleMetrics(), "dispatch")
    engine = JobEngine(store, LIMITS, work, (1.0,), conninfo=str(pool.conninfo), metrics=metrics, barrier=barrier)
    running = asyncio.create_task(engine.run(stop))
    await barrier.is_asked.wait()
    stop.set()
    async with asyncio.timeout(10):
        await running
