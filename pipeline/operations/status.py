"""Read the state of the whole system: lags, jobs, stopped lanes, parked events and dead letters.

`mailfold status` calls it.
"""

import datetime as dt
from typing import Any

import msgspec

from pipeline import admin
from pipeline.dispatch.correlation.parked import SQL as CORRELATION
from pipeline.operations.lag import LagSnapshot, lag_of, read_lag
from pipeline.operations.recover.losses import LogLoss, find_losses
from pipeline.runtime.bootstrap import Runtime
from projections.feature_level import FIRST_LEVEL, read_level
from projections.history_queries import SQL
from projections.sql import SqlQueries
from topics.registry import (
    DEAD_LETTERS,
    EMAIL_CHANGES,
    FACT_TOPICS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    SEND_REQUESTS,
    UNCORRELATED_EVENTS,
    Topic,
)


class TopicLag(msgspec.Struct, frozen=True):
    """The number of offsets that a role has still to read of one topic, over all partitions.

    The role `correlation` is a loop of dispatch.
    """

    role: str
    topic: str
    behind: int
    end: int
    note: str = ""


class OwedConversion(msgspec.Struct, frozen=True):
    """The conversion that has been owed longest."""

    email_id: str
    word: str
    lane: str
    since: dt.datetime
    last_error: str


class JobCount(msgspec.Struct, frozen=True):
    """The number of jobs of one queue in one state."""

    queue: str
    state: str
    count: int
    oldest: dt.datetime


class StoppedLane(msgspec.Struct, frozen=True):
    """A lane that is paused, or whose circuit breaker is open."""

    queue: str
    lane: str
    paused_at: dt.datetime | None
    reason: str
    open_until: dt.datetime | None


class ParkedCount(msgspec.Struct, frozen=True):
    """The number of events that wait for the ack that names their email."""

    count: int
    oldest: dt.datetime | None


class HaltedPartition(msgspec.Struct, frozen=True):
    """A partition of `email-changes` that the projector does not go on with, although Kafka and Postgres answer."""

    partition: int
    reason: str


class StatusSnapshot(msgspec.Struct, frozen=True):
    """The state of the whole system at one moment."""

    lags: list[TopicLag]
    oldest_owed: OwedConversion | None
    jobs: list[JobCount]
    stopped: list[StoppedLane]
    parked: ParkedCount
    dead_letters: int
    insecure_destinations: tuple[str, ...] = ()
    """Destinations, as tenant/brand, whose key is sent over unencrypted HTTP."""
    halted: tuple[HaltedPartition, ...] = ()
    feature_level: int = FIRST_LEVEL
    """The level up to which processes may write; `mailfold upgrade finish` raises it to that of its version."""
    suspended_tenants: tuple[str, ...] = ()
    """Tenants of which nothing is sent, whatever their jobs' state."""
    lost: tuple[LogLoss, ...] = ()
    """Where the log lacks what was read from it; `mailfold recover` leads out of it."""


async def read_status(rt: Runtime) -> StatusSnapshot:
    """Return the current state of everything. Raise LogUnavailable."""
    snapshot = await read_lag(rt)
    async with rt.pool.connection() as connection:

        async def rows(name: str, queries: SqlQueries = SQL) -> list[Any]:
            return await (await connection.execute(queries[name])).fetchall()

        first_read = any(row[3] is not None for row in await rows("projected"))
        owed = [OwedConversion(*row) for row in await rows("oldest_owed")]
        jobs = [JobCount(*row) for row in await rows("jobs_by_state")]
        stopped = [StoppedLane(*row) for row in await rows("paused_lanes")]
        [(parked_count, oldest_parked)] = await rows("parked", CORRELATION)
        level = await read_level(connection)
    destinations = await admin.fetch_rows(rt.pool, "list_destinations")
    insecure = tuple(f"{tenant}/{brand}" for tenant, brand, url, _ in destinations if admin.is_unencrypted_url(url))
    tenants = await admin.fetch_rows(rt.pool, "list_tenants")
    lags = [_topic_lag("worker", topic, snapshot) for topic in (*FACT_TOPICS, PROVIDER_WEBHOOKS)]
    lags += [_topic_lag("dispatch", topic, snapshot) for topic in (SEND_REQUESTS, PROVIDER_ACKS)]
    lags.append(_topic_lag("correlation", UNCORRELATED_EVENTS, snapshot))
    note = "first read: debts are held until its end" if first_read else ""
    lags.append(msgspec.structs.replace(_topic_lag("project", EMAIL_CHANGES, snapshot), note=note))
    dead_letters = sum(
        end - snapshot.beginnings[partition]
        for partition, end in snapshot.ends.items()
        if partition[0] == DEAD_LETTERS.name
    )
    oldest = None if oldest_parked is None else dt.datetime.fromtimestamp(oldest_parked / 1000, dt.UTC)
    parked = ParkedCount(parked_count, oldest)
    halted = tuple(HaltedPartition(partition, reason) for partition, reason in sorted(snapshot.halted.items()))
    return StatusSnapshot(
        *(lags, owed[0] if owed else None, jobs, stopped, parked, dead_letters, insecure),
        halted=halted,
        feature_level=level,
        suspended_tenants=tuple(tenant for tenant, _, _, suspended_at, *_ in tenants if suspended_at is not None),
        lost=tuple(await find_losses(rt.settings, rt.pool)),
    )


def _topic_lag(role: str, topic: Topic, snapshot: LagSnapshot) -> TopicLag:
    total_end = sum(end for partition, end in snapshot.ends.items() if partition[0] == topic.name)
    return TopicLag(role, topic.name, lag_of(snapshot, role, topic), total_end)
