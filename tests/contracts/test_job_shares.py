"""How a claim shares the capacity between tenants, and between the brands of one, on a real Postgres."""

from collections import Counter
from collections.abc import Iterable

import pytest

from pipeline import admin
from pipeline.jobs.job import DONE, Job
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.postgres.database import Pool
from tests.support.job_rows import INSERT_JOBS, ask, emit_store


async def brands(pool: Pool, tenant: str, count: int, jobs: int) -> None:
    """Insert ``jobs`` due jobs into each of the ``count`` lanes of a tenant."""
    await ask(
        pool,
        f"{INSERT_JOBS} select 'emit', gen_random_uuid(), 1, 'word', %s || '/' || brand, 'pending', 'x' "
        "from generate_series(1, %s::integer) brand, generate_series(1, %s::integer) nth",
        *(tenant, count, jobs),
    )


def tenant_counts(jobs: Iterable[Job]) -> Counter[str]:
    return Counter(job.lane.partition("/")[0] for job in jobs)


@pytest.mark.parametrize("queue", ["dispatch", "emit"])
async def test_tenant_gets_half_of_capacity_beside_tenant_with_thousand_brands(pool: Pool, queue: str) -> None:
    await brands(pool, "big", 1000, 2)
    await brands(pool, "small", 4, 100)
    await ask(pool, "update jobs.jobs set queue = %s", queue)
    limits = ClaimLimits(max_jobs=192, max_jobs_per_lane=32, lease_s=5.0)
    assert tenant_counts(await JobStore(pool, queue, limits).claim()) == {"big": 96, "small": 96}


async def test_capacity_is_shared_by_tenants_then_by_brands(pool: Pool) -> None:
    await brands(pool, "a", 1, 100)
    await brands(pool, "b", 3, 100)
    await brands(pool, "c", 10, 100)
    claimed = await emit_store(pool, ClaimLimits(max_jobs=90, max_jobs_per_lane=90, lease_s=5.0)).claim()
    assert tenant_counts(claimed) == {"a": 30, "b": 30, "c": 30}
    lanes = Counter(job.lane for job in claimed)
    assert {lanes[f"b/{brand}"] for brand in range(1, 4)} == {10}
    assert {lanes[f"c/{brand}"] for brand in range(1, 11)} == {3}


async def test_jobs_in_hand_count_for_share_of_tenant(pool: Pool) -> None:
    await brands(pool, "early", 8, 20)
    in_hand = await emit_store(pool).claim()
    assert tenant_counts(in_hand) == {"early": 20}
    await brands(pool, "late", 1, 20)
    for _ in range(10):
        finished = next(job for job in in_hand if job.lane.startswith("early/"))
        await emit_store(pool).settle_one(finished, DONE)
        in_hand.remove(finished)
        in_hand += await emit_store(pool).claim(in_hand)
    assert tenant_counts(in_hand) == {"early": 10, "late": 10}


async def test_unused_share_goes_to_other_tenants(pool: Pool) -> None:
    await brands(pool, "big", 100, 10)
    await brands(pool, "small", 1, 2)
    in_hand: list[Job] = []
    for _ in range(3):
        in_hand += await emit_store(pool).claim(in_hand)
    assert tenant_counts(in_hand) == {"big": 18, "small": 2}


async def test_tenant_with_stuck_jobs_leaves_capacity_to_others(pool: Pool) -> None:
    await admin.add_tenant(pool, admin.Tenant("stuck"))
    await admin.add_tenant(pool, admin.Tenant("late"))
    await brands(pool, "stuck", 100, 10)
    in_hand: list[Job] = []
    for _ in range(10):
        in_hand += await emit_store(pool).claim(in_hand)
    assert tenant_counts(in_hand) == {"stuck": 15}
    await brands(pool, "late", 1, 10)
    assert tenant_counts(await emit_store(pool).claim(in_hand)) == {"late": 4}


async def test_only_tenant_may_use_all_capacity(pool: Pool) -> None:
    await admin.add_tenant(pool, admin.Tenant("alone"))
    await brands(pool, "alone", 100, 10)
    in_hand: list[Job] = []
    for _ in range(10):
        in_hand += await emit_store(pool).claim(in_hand)
    assert tenant_counts(in_hand) == {"alone": 20}


async def test_all_jobs_of_uneven_lanes_are_claimed(pool: Pool) -> None:
    for tenant, lanes, jobs in (("a", 300, 1), ("b", 1, 300), ("c", 30, 3)):
        await brands(pool, tenant, lanes, jobs)
    claimed = 0
    while jobs_now := await emit_store(pool).claim():
        claimed += len(jobs_now)
        await emit_store(pool).settle([(job, DONE) for job in jobs_now])
    assert claimed == 690
