"""Which jobs of a suspended tenant a claim leaves alone, on a real Postgres."""

import pytest

from pipeline import admin
from pipeline.jobs.job import release
from pipeline.jobs.store import JobStore
from pipeline.runtime.postgres.database import Pool
from tests.support.job_rows import INSERT_JOBS, LIMITS, ask


async def add_jobs(pool: Pool, queue: str, tenant: str, count: int = 1) -> None:
    await admin.add_tenant(pool, admin.Tenant(tenant))
    await ask(
        pool,
        f"{INSERT_JOBS} select %s, gen_random_uuid(), 0, 'send', %s, 'pending', 'x' "
        "from generate_series(1, %s::integer)",
        *(queue, f"{tenant}/7", count),
    )


async def claimed_tenants(pool: Pool, queue: str) -> set[str]:
    jobs = await JobStore(pool, queue, LIMITS).claim()
    return {job.lane.partition("/")[0] for job in jobs}


async def test_mail_of_suspended_tenant_is_not_claimed_until_it_is_resumed(pool: Pool) -> None:
    for tenant in ("acme", "other"):
        await add_jobs(pool, "dispatch", tenant)
    await admin.suspend_tenant(pool, "acme", "unpaid")
    assert await claimed_tenants(pool, "dispatch") == {"other"}
    assert await claimed_tenants(pool, "dispatch") == set()
    assert await ask(pool, "select state, attempts from jobs.jobs where lane = 'acme/7'") == [("pending", 0)]
    assert await admin.resume_tenant(pool, "acme")
    assert await claimed_tenants(pool, "dispatch") == {"acme"}


async def test_conversions_of_suspended_tenant_are_claimed(pool: Pool) -> None:
    await add_jobs(pool, "emit", "acme")
    await admin.suspend_tenant(pool, "acme")
    assert await claimed_tenants(pool, "emit") == {"acme"}


async def test_mail_whose_lease_ran_out_waits_until_its_tenant_is_resumed(pool: Pool) -> None:
    await add_jobs(pool, "dispatch", "acme")
    assert await claimed_tenants(pool, "dispatch") == {"acme"}
    await admin.suspend_tenant(pool, "acme")
    await ask(pool, "update jobs.jobs set due_at = now() - interval '1 second'")
    assert await claimed_tenants(pool, "dispatch") == set()
    await admin.resume_tenant(pool, "acme")
    [job] = await JobStore(pool, "dispatch", LIMITS).claim()
    assert (job.unknown, job.attempt) == (True, 2)


async def test_job_in_hand_is_settled_although_its_tenant_was_suspended(pool: Pool) -> None:
    await add_jobs(pool, "dispatch", "acme")
    store = JobStore(pool, "dispatch", LIMITS)
    [job] = await store.claim()
    await admin.suspend_tenant(pool, "acme")
    await store.settle_one(job, release(0, "busy"))
    assert await ask(pool, "select state, attempts from jobs.jobs") == [("pending", 0)]


@pytest.mark.parametrize("suspended", [1, 300])
async def test_suspended_tenants_take_no_share_of_the_capacity(pool: Pool, suspended: int) -> None:
    await add_jobs(pool, "dispatch", "acme", 30)
    for number in range(suspended):
        await add_jobs(pool, "dispatch", f"s{number}", 2)
        await admin.suspend_tenant(pool, f"s{number}")
    jobs = await JobStore(pool, "dispatch", LIMITS).claim()
    assert [job.lane for job in jobs] == ["acme/7"] * LIMITS.max_jobs_per_lane
