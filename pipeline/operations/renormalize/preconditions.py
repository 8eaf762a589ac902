"""Has all been read that was written so far? The roles' positions in, a go-ahead or Refused out."""

import asyncio
from typing import Final

from pipeline.dispatch.correlation.parked import SQL
from pipeline.errors import Refused
from pipeline.operations.lag import LagSnapshot, PartitionOffsets, lag_of, read_lag
from pipeline.runtime.bootstrap import Runtime
from topics.registry import (
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    UNCORRELATED_EVENTS,
    Topic,
)

CATCH_UP_TIMEOUT_S: Final = 30.0
CORRELATION: Final = "correlation"

STAGES: Final[tuple[tuple[str, tuple[Topic, ...]], ...]] = (
    ("worker", (PROVIDER_WEBHOOKS,)),
    (CORRELATION, (PROVIDER_ACKS, UNCORRELATED_EVENTS)),
    ("worker", (DELIVERY_EVENTS,)),
    ("project", (EMAIL_CHANGES,)),
)
"""Who reads what, in the order of an event's way: one after the other, each to where its topics end by then."""


async def wait_until_caught_up(rt: Runtime, patience: float = CATCH_UP_TIMEOUT_S) -> None:
    """Wait until every webhook of before is in Postgres' timeline, or parked. Raises Refused, naming who is behind."""
    deadline = asyncio.get_running_loop().time() + patience
    for role, topics in STAGES:
        seen = await read_lag(rt)
        ends = seen.ends
        while why := await _unfinished(rt, seen, role, topics, ends):
            if asyncio.get_running_loop().time() > deadline:
                raise Refused(f"{role} is behind by {why}; begin again when `mailfold status` shows that it isn't")
            await asyncio.sleep(0.2)
            seen = await read_lag(rt)


async def _unfinished(
    rt: Runtime, seen: LagSnapshot, role: str, topics: tuple[Topic, ...], ends: PartitionOffsets
) -> str:
    left = {topic.name: count for topic in topics if (count := lag_of(seen, role, topic, ends))}
    if left:
        return ", ".join(f"{count} records of {name}" for name, count in left.items())
    if role == CORRELATION:
        async with rt.pool.connection() as connection:
            row = await (await connection.execute(SQL["is_telling"])).fetchone()
        # Read is not told: what found its email is appended after that was written down.
        return "events that just found their emails" if row is not None and row[0] else ""
    return ""
