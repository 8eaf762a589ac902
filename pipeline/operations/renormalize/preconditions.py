"""Wait until all roles have processed what was written so far.

`mailfold renormalize` and `mailfold tenants delete` call it before they start.
"""

import asyncio
from collections.abc import Sequence
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

CatchUpStages = Sequence[tuple[str, tuple[Topic, ...]]]
STAGES: Final[CatchUpStages] = (
    ("worker", (PROVIDER_WEBHOOKS,)),
    (CORRELATION, (PROVIDER_ACKS, UNCORRELATED_EVENTS)),
    ("worker", (DELIVERY_EVENTS,)),
    ("project", (EMAIL_CHANGES,)),
)
"""The roles and the topics that they read, in the order in which an event passes them. Each stage is awaited up to the
ends of its topics at the time when the stage before it is finished."""


async def wait_until_caught_up(
    rt: Runtime, timeout_s: float = CATCH_UP_TIMEOUT_S, stages: CatchUpStages = STAGES
) -> None:
    """Wait until the roles of ``stages`` have read their topics; by default, until all webhooks are in the timeline.

    Raise Refused after ``timeout_s``, naming the role that is behind.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    for role, topics in stages:
        snapshot = await read_lag(rt)
        ends = snapshot.ends
        while unfinished := await _unfinished(rt, snapshot, role, topics, ends):
            if asyncio.get_running_loop().time() > deadline:
                raise Refused(
                    f"{role} is behind by {unfinished}; begin again when `mailfold status` shows that it isn't"
                )
            await asyncio.sleep(0.2)
            snapshot = await read_lag(rt)


async def _unfinished(
    rt: Runtime, snapshot: LagSnapshot, role: str, topics: tuple[Topic, ...], ends: PartitionOffsets
) -> str:
    """Return what the role has still to process of these topics up to ``ends``; empty if nothing."""
    lags = {topic.name: count for topic in topics if (count := lag_of(snapshot, role, topic, ends))}
    if lags:
        return ", ".join(f"{count} records of {name}" for name, count in lags.items())
    if role == CORRELATION:
        async with rt.pool.connection() as connection:
            row = await (await connection.execute(SQL["is_telling"])).fetchone()
        # Correlated events are appended after the offset was committed, so that the offset alone proves nothing.
        return "events that just found their emails" if row is not None and row[0] else ""
    return ""
