"""Insert and read jobs by SQL, and open a store of the emitter's queue."""

from typing import Any

from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.postgres.database import Pool

INSERT_JOBS = "insert into jobs.jobs (queue, stream, seq, name, lane, state, payload)"
LIMITS = ClaimLimits(max_jobs=20, max_jobs_per_lane=10, lease_s=5.0)


async def ask(pool: Pool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Execute a statement and return its rows; none if it returns none."""
    async with pool.connection() as connection:
        cursor = await connection.execute(query, values)  # type: ignore[arg-type,unused-ignore]
        return await cursor.fetchall() if cursor.description else []


def emit_store(pool: Pool, limits: ClaimLimits = LIMITS) -> JobStore:
    """Return a store of the queue `emit`."""
    return JobStore(pool, "emit", limits)
