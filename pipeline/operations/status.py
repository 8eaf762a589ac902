"""Who is how far behind, what is owed longest, what stands still: Kafka's and Postgres' answers in, one value out."""

import datetime as dt
from typing import Any

import msgspec

from pipeline import admin
from pipeline.dispatch.correlation.parked import SQL as CORRELATION
from pipeline.operations.lag import LagSnapshot, lag_of, read_lag
from pipeline.runtime.bootstrap import Runtime
from projections.postgres import SQL
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
    """How many offsets a role has to read of one topic, over all partitions; correlation is a loop of dispatch."""

    role: str
    topic: str
    behind: int
    end: int
    note: str = ""


class OwedConversion(msgspec.Struct, frozen=True):
    """The conversion that waits longest."""

    email_id: str
    word: str
    lane: str
    since: dt.datetime
    last_error: str


class JobCount(msgspec.Struct, frozen=True):
    """Jobs of one queue that are in one state."""

    queue: str
    state: str
    count: int
    oldest: dt.datetime


class StoppedLane(msgspec.Struct, frozen=True):
    """A lane that stands still, by a pause or by its breaker."""

    queue: str
    lane: str
    paused_at: dt.datetime | None
    reason: str
    open_until: dt.datetime | None


class ParkedCount(msgspec.Struct, frozen=True):
    """Events that wait for the ack that says whose they are."""

    count: int
    oldest: dt.datetime | None


class StatusSnapshot(msgspec.Struct, frozen=True):
    """Everything at one look."""

    lags: list[TopicLag]
    oldest_owed: OwedConversion | None
    jobs: list[JobCount]
    stopped: list[StoppedLane]
    parked: ParkedCount
    dead_letters: int
    insecure_destinations: tuple[str, ...] = ()
    """Tenant/brand of those whose key travels over plain http."""


async def read_status(rt: Runtime) -> StatusSnapshot:
    """Look once at everything."""
    seen = await read_lag(rt)
    async with rt.pool.connection() as connection:

        async def rows(name: str, queries: SqlQueries = SQL) -> list[Any]:
            return await (await connection.execute(queries[name])).fetchall()

        first_read = any(row[3] is not None for row in await rows("projected"))
        owed = [OwedConversion(*row) for row in await rows("oldest_owed")]
        jobs = [JobCount(*row) for row in await rows("jobs_by_state")]
        stopped = [StoppedLane(*row) for row in await rows("paused_lanes")]
        [(waiting, oldest)] = await rows("parked", CORRELATION)
    destinations = await admin.fetch_rows(rt.pool, "list_destinations")
    insecure = tuple(f"{tenant}/{brand}" for tenant, brand, url, _ in destinations if admin.is_unencrypted_url(url))
    lags = [_lag("worker", topic, seen) for topic in (*FACT_TOPICS, PROVIDER_WEBHOOKS)]
    lags += [_lag("dispatch", topic, seen) for topic in (SEND_REQUESTS, PROVIDER_ACKS)]
    lags.append(_lag("correlation", UNCORRELATED_EVENTS, seen))
    note = "first read: debts are held until its end" if first_read else ""
    lags.append(msgspec.structs.replace(_lag("project", EMAIL_CHANGES, seen), note=note))
    letters = sum(end - seen.beginnings[place] for place, end in seen.ends.items() if place[0] == DEAD_LETTERS.name)
    parked = ParkedCount(waiting, None if oldest is None else dt.datetime.fromtimestamp(oldest / 1000, dt.UTC))
    return StatusSnapshot(lags, owed[0] if owed else None, jobs, stopped, parked, letters, insecure)


def _lag(role: str, topic: Topic, seen: LagSnapshot) -> TopicLag:
    ends = sum(end for place, end in seen.ends.items() if place[0] == topic.name)
    return TopicLag(role, topic.name, lag_of(seen, role, topic), ends)
