"""How the jobs of one tenant are found among many finished ones, on a real Postgres."""

import pytest

from pipeline import admin
from pipeline.admin.sql import SQL as ADMIN_SQL
from pipeline.operations.tenant_deletion import SQL as DELETION_SQL
from pipeline.runtime.postgres.database import Pool
from tests.support.job_rows import INSERT_JOBS, ask

STATES = ("held", "pending", "attempting", "unknown", "dead", "done")


async def add_jobs(pool: Pool, tenant: str, states: tuple[str, ...] = STATES, count: int = 1) -> None:
    for queue in ("dispatch", "emit"):
        for state in states:
            await ask(
                pool,
                f"{INSERT_JOBS} select %s, gen_random_uuid(), 0, 'send', %s, %s, 'x' "
                "from generate_series(1, %s::integer)",
                *(queue, f"{tenant}/7", state, count),
            )


async def test_jobs_that_are_not_done_are_counted_and_deleted_of_one_tenant(pool: Pool) -> None:
    for tenant in ("acme", "acme-2", "other"):
        await add_jobs(pool, tenant)
    async with pool.connection() as connection:
        jobs = await admin.open_jobs(connection, "acme")
        assert jobs == {(queue, state): 1 for queue in ("dispatch", "emit") for state in STATES[:-1]}
        values = {"tenant": "acme", "lanes": await admin.list_lanes(connection, "acme"), "limit": 100}
        assert (await connection.execute(DELETION_SQL["delete_open_jobs"], values)).rowcount == 10
        assert await admin.open_jobs(connection, "acme") == {}
        assert len(await admin.open_jobs(connection, "other")) == 10


@pytest.mark.parametrize(
    "statement", [ADMIN_SQL["tenant_lanes"], ADMIN_SQL["tenant_jobs"], DELETION_SQL["delete_open_jobs"]]
)
async def test_finished_jobs_are_not_scanned(pool: Pool, statement: str) -> None:
    await add_jobs(pool, "other", ("done",), 5_000)
    await add_jobs(pool, "acme")
    async with pool.connection() as connection:
        await connection.execute("analyze jobs.jobs")
        values = {"tenant": "acme", "lanes": ["acme/7"], "limit": 100}
        given = values if "%(tenant)s" in statement else ("acme",)
        cursor = await connection.execute(f"explain {statement}", given)  # type: ignore[arg-type,unused-ignore]
        plan = "\n".join(line for (line,) in await cursor.fetchall())
        assert "Seq Scan on jobs" not in plan, plan
