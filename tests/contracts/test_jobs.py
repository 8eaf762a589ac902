"""The contract of the job engine on a real Postgres: order, leases, lanes, breakers and dead jobs."""

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from pydantic import SecretStr

from pipeline.errors import LeaseLost
from pipeline.jobs import retry as breaker
from pipeline.jobs.engine import JobEngine, JobHandler, Lease
from pipeline.jobs.job import DONE, EndpointHealth, Job, JobResult, bury, hold, release, retry
from pipeline.jobs.metrics import JobMetrics
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.observing.role_metrics import RoleMetrics
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.settings import Settings
from tests.support.job_rows import ask
from tests.support.seeing import until

INSERT = "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)"
LIMITS = ClaimLimits(max_jobs=20, max_jobs_per_lane=10, lease_s=5.0)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    settings = Settings(database_url=SecretStr(database_url))
    async with open_database(settings, size=8) as opened:
        yield opened


async def put(
    pool: Pool, count: int = 1, *, lane: str = "acme/7", per_stream: int = 1, state: str = "pending"
) -> list[str]:
    streams = [str(uuid.uuid4()) for _ in range(count)]
    values = [
        ("emit", stream, seq, f"word{seq}", lane, state, stream.encode())
        for stream in streams
        for seq in range(1, per_stream + 1)
    ]
    async with pool.connection() as connection, connection.cursor() as cursor:
        await cursor.executemany(
            f"{INSERT} values (%s, %s, %s, %s, %s, %s, %s)",  # type: ignore[arg-type,unused-ignore]
            values,
        )
    return streams


async def expire(pool: Pool) -> None:
    await ask(pool, "update jobs.jobs set due_at = now() - interval '1 second' where state = 'attempting'")


def store(pool: Pool, limits: ClaimLimits = LIMITS) -> JobStore:
    return JobStore(pool, "emit", limits)


@contextlib.asynccontextmanager
async def working(
    pool: Pool, work: JobHandler, *, limits: ClaimLimits = LIMITS, schedule: tuple[float, ...] = (0.05,) * 9
) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    engine = JobEngine(
        *(store(pool, limits), limits, work, schedule),
        conninfo=str(pool.conninfo),
        metrics=JobMetrics(RoleMetrics(), "emit"),
        rand=random.Random(7).random,
    )
    running = asyncio.create_task(engine.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await running


def all_done(pool: Pool) -> Callable[[], Awaitable[bool]]:
    async def done() -> bool:
        return await ask(pool, "select 1 from jobs.jobs where state not in ('done', 'dead') limit 1") == []

    return done


# ----------------------------------------------------------------------------- leases
async def test_concurrent_claims_return_each_job_once(pool: Pool) -> None:
    await put(pool, 50)
    claims = await asyncio.gather(*[store(pool).claim() for _ in range(6)])
    held = Counter(job.stream for jobs in claims for job in jobs)
    assert sum(held.values()) == 50
    assert set(held.values()) == {1}


async def test_expired_lease_is_claimed_as_unknown_and_counts_as_attempt(pool: Pool) -> None:
    await put(pool)
    [first] = await store(pool).claim()
    assert (first.attempt, first.unknown) == (1, False)
    assert await store(pool).claim() == []
    await expire(pool)
    [second] = await store(pool).claim()
    assert (second.attempt, second.unknown) == (2, True)
    assert second.token != first.token


async def test_only_holder_of_lease_can_settle(pool: Pool) -> None:
    await put(pool)
    [late] = await store(pool).claim()
    await expire(pool)
    [holder] = await store(pool).claim()
    for verdict in (DONE, bury("x"), retry(0, "x", EndpointHealth.HEALTHY), hold("x"), release(0, "x")):
        with pytest.raises(LeaseLost):
            await store(pool).settle_one(late, verdict)
    await store(pool).settle_one(holder, DONE)
    assert await ask(pool, "select state, attempts, payload from jobs.jobs") == [("done", 2, b"")]


async def test_job_closed_by_intake_can_be_settled(pool: Pool) -> None:
    await put(pool)
    [job] = await store(pool).claim()
    await ask(pool, "update jobs.jobs set state = 'done'")
    await store(pool).settle_one(job, DONE)
    assert await ask(pool, "select state from jobs.jobs") == [("done",)]


async def test_lease_of_long_job_is_extended(pool: Pool) -> None:
    await put(pool)
    attempts: list[int] = []

    async def slow(job: Job, _lease: Lease) -> JobResult:
        attempts.append(job.attempt)
        await asyncio.sleep(1.5)
        return DONE

    limits = ClaimLimits(max_jobs=20, max_jobs_per_lane=10, lease_s=0.6)
    async with working(pool, slow, limits=limits), working(pool, slow, limits=limits):
        await until(all_done(pool))
    assert attempts == [1]


async def test_expired_lease_forbids_contact() -> None:
    now = asyncio.get_running_loop().time()
    Lease(now + 5).begin_contact()
    with pytest.raises(LeaseLost):
        Lease(now - 0.001).begin_contact()


# ------------------------------------------------------------------------------ order
@pytest.mark.parametrize("seed", range(4))
async def test_jobs_of_a_stream_are_done_in_order(pool: Pool, seed: int) -> None:
    dice = random.Random(seed)
    streams = await put(pool, 40, per_stream=4)
    ended: dict[str, list[int]] = {stream: [] for stream in streams}
    at_work: set[str] = set()

    async def work(job: Job, lease: Lease) -> JobResult:
        assert job.stream not in at_work, "two jobs of one stream at once"
        at_work.add(job.stream)
        lease.begin_contact()
        await asyncio.sleep(dice.random() * 0.01)
        at_work.discard(job.stream)
        roll = dice.random()
        if roll < 0.25:
            return retry(dice.random() * 0.05, "again", EndpointHealth.HEALTHY)
        if roll < 0.3:
            return release(0, "not now")
        if roll < 0.35:
            raise RuntimeError("a surprise")
        ended[job.stream].append(job.seq)
        return DONE if roll < 0.95 else bury("no")

    async with working(pool, work), working(pool, work), working(pool, work):
        await until(all_done(pool), 40)
    assert all(order == sorted(order) for order in ended.values())
    assert sum(map(len, ended.values())) == 160


async def test_followers_of_long_retry_are_postponed_and_due_with_their_head(pool: Pool) -> None:
    [stream] = await put(pool, per_stream=3)
    [head] = await store(pool).claim()
    await store(pool).settle_one(head, retry(3600, "503", EndpointHealth.HEALTHY))
    assert await store(pool).claim() == []
    await ask(pool, f"{INSERT} values ('emit', %s, 4, 'spam', 'acme/7', 'pending', '')", stream)
    await store(pool).park_blocked_jobs()
    due = await ask(pool, "select count(*) from jobs.jobs where due_at <= now()")
    assert due == [(0,)]
    await ask(pool, "update jobs.jobs set due_at = now() where seq = 1")
    for expected in (1, 2, 3, 4):
        [job] = await store(pool).claim()
        assert job.seq == expected
        await store(pool).settle_one(job, DONE)


async def test_dead_job_does_not_block_followers(pool: Pool) -> None:
    await put(pool, per_stream=2)
    [head] = await store(pool).claim()
    await store(pool).settle_one(head, bury("gave up"))
    [follower] = await store(pool).claim()
    assert follower.seq == 2


async def test_held_jobs_are_not_claimed(pool: Pool) -> None:
    await put(pool, 3, state="held")
    assert await store(pool).claim() == []


# ------------------------------------------------------------------------------ lanes
async def test_paused_lane_counts_no_attempt_and_can_be_resumed(pool: Pool) -> None:
    await put(pool, 2, lane="acme/paused")
    await put(pool, 1, lane="acme/other")
    await store(pool).pause_lane("acme/paused", "somebody said so")
    assert [job.lane for job in await store(pool).claim()] == ["acme/other"]
    assert await store(pool).resume_lanes(["acme/paused"]) == ["acme/paused"]
    assert [(job.lane, job.attempt) for job in await store(pool).claim()] == [("acme/paused", 1)] * 2


async def test_result_that_pauses_lane_counts_no_attempt(pool: Pool) -> None:
    await put(pool)
    [job] = await store(pool).claim()
    await store(pool).settle_one(job, release(0, "401", pause="the destination answers 401"))
    assert await ask(pool, "select state, attempts from jobs.jobs") == [("pending", 0)]
    assert await store(pool).claim() == []
    assert await store(pool).lanes_paused_for("the destination answers 401") == ["acme/7"]


async def test_lane_gets_no_more_jobs_than_its_limit(pool: Pool) -> None:
    await put(pool, 100, lane="acme/big")
    await put(pool, 2, lane="acme/small")
    jobs = await store(pool).claim()
    lanes = Counter(job.lane for job in jobs)
    assert lanes["acme/small"] == 2
    assert lanes["acme/big"] == 10
    assert [job.lane for job in await store(pool).claim(jobs)] == []


async def test_one_lane_gets_at_most_half_of_free_capacity(pool: Pool) -> None:
    in_hand: list[Job] = []
    for number in range(12):
        await put(pool, 100, lane=f"acme/stuck{number}")
        in_hand += await store(pool).claim(in_hand)
    assert len(in_hand) == LIMITS.max_jobs, "only stuck lanes have due jobs, so they may use all capacity"
    # No capacity is free now. A worker with nothing in hand gives one lane at most half of its capacity.
    jobs = await store(pool, ClaimLimits(max_jobs=20, max_jobs_per_lane=100, lease_s=5)).claim()
    assert Counter(job.lane for job in jobs).most_common(1)[0][1] <= 10


async def test_consecutive_failures_open_breaker_and_one_probe_closes_it(pool: Pool) -> None:
    await put(pool, 30)
    for _ in range(breaker.FAILURE_THRESHOLD):
        [job, *rest] = await store(pool).claim()
        await store(pool).settle([(other, release(0, "")) for other in rest])
        await store(pool).settle_one(job, retry(0, "no answer", EndpointHealth.FAILING))
    assert await store(pool).claim() == []
    await ask(pool, "update jobs.lanes set open_until = now()")
    first, second = await asyncio.gather(store(pool).claim(), store(pool).claim())
    [probe] = first + second
    await store(pool).settle_one(probe, retry(0, "no answer", EndpointHealth.FAILING))
    assert await store(pool).claim() == []
    [(trips, pause)] = await ask(pool, "select trips, extract(epoch from open_until - now()) from jobs.lanes")
    assert trips == 2
    assert float(pause) > breaker.pause_seconds(1)
    await ask(pool, "update jobs.lanes set open_until = now()")
    [probe] = await store(pool).claim()
    await store(pool).settle_one(probe, DONE)
    assert len(await store(pool).claim()) > 1


async def test_broken_lane_opens_at_once_and_others_continue(pool: Pool) -> None:
    await put(pool, 3, lane="acme/broken")
    [job, *rest] = await store(pool).claim()
    await store(pool).settle([(other, release(0, "")) for other in rest])
    await store(pool).settle_one(job, release(0, "535 who are you?", EndpointHealth.BROKEN))
    await put(pool, 1, lane="acme/fine")
    assert [cursor.lane for cursor in await store(pool).claim()] == ["acme/fine"]
    assert await ask(pool, "select distinct attempts from jobs.jobs where lane = 'acme/broken'") == [(0,)]


# ------------------------------------------------------------------------------- ends
async def test_job_that_always_raises_is_dead_after_schedule(pool: Pool) -> None:
    await put(pool)

    async def surprise(_job: Job, _lease: Lease) -> JobResult:
        raise RuntimeError("always")

    async with working(pool, surprise, schedule=(0.01, 0.01)):
        await until(all_done(pool))
    assert await ask(pool, "select state, attempts from jobs.jobs") == [("dead", 3)]


async def test_stop_releases_jobs_not_begun_and_keeps_others_leased(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.jobs.engine.SHUTDOWN_GRACE_S", 0.2)
    streams = await put(pool, 2)
    started = asyncio.Event()

    async def work(job: Job, lease: Lease) -> JobResult:
        if job.stream == streams[0]:
            lease.begin_contact()
        started.set()
        await asyncio.sleep(60)
        return DONE

    async with working(pool, work):
        await started.wait()
        await asyncio.sleep(0)
    states = dict(await ask(pool, "select stream::text, state from jobs.jobs"))
    assert states == {streams[0]: "attempting", streams[1]: "pending"}


async def test_notified_job_starts_within_milliseconds(pool: Pool) -> None:
    begun = asyncio.Event()

    async def work(_job: Job, _lease: Lease) -> JobResult:
        begun.set()
        return DONE

    async with working(pool, work):
        await until(all_done(pool))
        waits = []
        for _ in range(5):
            begun.clear()
            await put(pool)
            before = wall_clock()
            await ask(pool, "select pg_notify('jobs_emit', '')")
            await begun.wait()
            waits.append(wall_clock() - before)
    # Not a timing test: without the notification each would wait for the poll, half a second on average.
    assert sorted(waits)[1] < 300


async def test_workers_survive_loss_of_all_connections(pool: Pool) -> None:
    ended: list[str] = []

    async def work(job: Job, _lease: Lease) -> JobResult:
        await asyncio.sleep(0.01)
        ended.append(job.stream)
        return DONE

    async with working(pool, work):
        for _ in range(3):
            await pool.check()
            await put(pool, 30)
            with contextlib.suppress(Exception):
                await ask(
                    pool,
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()",
                )
        await until(lambda: _quietly(all_done(pool)), 30)
    assert len(set(ended)) == 90


async def _quietly(holds: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await holds()
    except Exception:
        return False


async def test_frozen_transaction_does_not_keep_its_row_locks(pool: Pool) -> None:
    await put(pool)
    frozen = await pool.getconn()
    await frozen.execute("select from jobs.jobs for update")
    assert await store(pool).claim() == []

    async def claimed() -> bool:
        return len(await store(pool).claim()) == 1

    await until(claimed, 30)
    await pool.putconn(frozen)
