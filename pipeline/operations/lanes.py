"""List, pause and resume the lanes of the job queues; `mailfold lanes` and the console call it."""

from datetime import datetime
from typing import Final, NamedTuple

from pipeline.dispatch.routing.health import QUEUE as PROVIDERS
from pipeline.errors import NotFound, Refused
from pipeline.jobs.store import SQL, ClaimLimits, JobStore
from pipeline.operations.dead_letters import QUEUES
from pipeline.runtime.database import Pool

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


async def pause_lane(pool: Pool, queue: str, lane: str, reason: str) -> None:
    """Pause a lane: its jobs wait, and use up no attempts. Raise Refused for a queue that does not exist."""
    await lane_store(pool, queue).pause_lane(lane, reason)


async def resume_lane(pool: Pool, queue: str, lane: str) -> None:
    """Resume a lane, and close its breaker. Raise Refused, and NotFound if it is neither paused nor broken."""
    if not await lane_store(pool, queue).resume_lanes([lane]):
        raise NotFound(f"{queue} has no lane {lane} that is paused or has an open breaker; see `mailfold lanes list`")


def lane_store(pool: Pool, queue: str) -> JobStore:
    """Return the store of a queue's lanes. Raise Refused for a queue that does not exist."""
    if queue not in LANE_QUEUES:
        raise Refused(f"{queue}: not a queue; it must be one of {', '.join(LANE_QUEUES)}")
    return JobStore(pool, queue, ClaimLimits(1, 1, 10.0))
