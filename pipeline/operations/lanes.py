"""List the lanes of the job queues, and prepare their changes; `mailfold lanes` and the console call it."""

from datetime import datetime
from typing import Final, NamedTuple

from pipeline import admin
from pipeline.admin.actions import OperatorChange
from pipeline.admin.shown import shown_row
from pipeline.dispatch.routing.health import QUEUE as PROVIDERS
from pipeline.errors import Refused
from pipeline.jobs.store import SQL, ClaimLimits, JobStore
from pipeline.operations.dead_letters import QUEUES
from pipeline.runtime.postgres.database import Pool
from projections.pending_conversions import lane_of

LANE_QUEUES: Final = (*QUEUES, PROVIDERS)


class LaneState(NamedTuple):
    """A lane with work, a pause or an open breaker."""

    queue: str
    lane: str
    waiting: int
    claimed: int
    paused_at: datetime | None
    reason: str
    open_until: datetime | None


async def list_lanes(pool: Pool) -> list[LaneState]:
    """Return every lane with work, a pause or an open breaker, by queue and name."""
    async with pool.connection() as connection:
        return [LaneState(*row) for row in await (await connection.execute(SQL["list_lanes"])).fetchall()]


async def lane_exists(pool: Pool, queue: str, lane: str) -> bool:
    """Return whether a queue has this lane: a brand that is known or has jobs, or a provider. Raise Refused."""
    check_queue(queue)
    if queue == PROVIDERS:
        return any(row[0] == lane for row in await admin.fetch_rows(pool, "list_providers"))
    for name in ("list_brands", "list_destinations"):
        if any(row[1] != "*" and lane_of(row[0], row[1]) == lane for row in await admin.fetch_rows(pool, name)):
            return True
    return any((each.queue, each.lane) == (queue, lane) for each in await list_lanes(pool))


async def lane_change(pool: Pool, what: str, queue: str, lane: str, reason: str) -> OperatorChange:
    """Return what the record of actions says about a change of a lane; nothing is before it where it has no row."""
    tenant = "" if queue == PROVIDERS else lane.partition("/")[0]
    before = await shown_row(pool, "lane_shown", queue, lane)
    return OperatorChange(what, f"{queue} {lane}", tenant, reason=reason, before=before)


def lane_store(pool: Pool, queue: str) -> JobStore:
    """Return the store that pauses and resumes a queue's lanes."""
    return JobStore(pool, queue, ClaimLimits(1, 1, 10.0))


def check_queue(queue: str) -> None:
    """Raise Refused for a queue that does not exist."""
    if queue not in LANE_QUEUES:
        raise Refused(f"{queue}: not a queue; it must be one of {', '.join(LANE_QUEUES)}")
