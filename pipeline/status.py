"""Who is how far behind, what is owed longest, what stands still: Kafka's and Postgres' answers in, one value out."""

import datetime as dt
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from pipeline.bootstrap import Runtime
from pipeline.correlate.looking import SQL as CORRELATION
from pipeline.kafka import consumer
from projections.postgres import SQL
from projections.sql import Queries
from topics.registry import (
    DEAD_LETTERS,
    EMAIL_CHANGES,
    FACTS,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    SEND_REQUESTS,
    UNCORRELATED_EVENTS,
    Topic,
)

WORKER_GROUP: Final = "mailfold"
"""The Faust application's id."""


class Lag(msgspec.Struct, frozen=True):
    """How many offsets a role has to read of one topic, over all partitions."""

    role: str
    topic: str
    behind: int
    end: int
    note: str = ""


class Owed(msgspec.Struct, frozen=True):
    """The conversion that waits longest."""

    email_id: str
    word: str
    lane: str
    since: dt.datetime
    last_error: str


class Jobs(msgspec.Struct, frozen=True):
    """Jobs of one queue that are in one state."""

    queue: str
    state: str
    count: int
    oldest: dt.datetime


class Stopped(msgspec.Struct, frozen=True):
    """A lane that stands still, by a pause or by its breaker."""

    queue: str
    lane: str
    paused_at: dt.datetime | None
    reason: str
    open_until: dt.datetime | None


class Parked(msgspec.Struct, frozen=True):
    """Events that wait for the ack that says whose they are."""

    count: int
    oldest: dt.datetime | None


class Snapshot(msgspec.Struct, frozen=True):
    """Everything at one look."""

    lags: list[Lag]
    oldest_owed: Owed | None
    jobs: list[Jobs]
    stopped: list[Stopped]
    parked: Parked
    dead_letters: int


Ends = dict[tuple[str, int], int]


async def snapshot(rt: Runtime) -> Snapshot:
    """Look once at everything."""
    read = (*FACTS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS, EMAIL_CHANGES, DEAD_LETTERS)
    reader = consumer(rt.settings)
    await reader.start()
    try:
        beginnings, ends = await _ends(rt, reader, read)
    finally:
        await reader.stop()
    committed = await _committed(rt)
    async with rt.pool.connection() as connection:

        async def rows(name: str, queries: Queries = SQL) -> list[Any]:
            return await (await connection.execute(queries[name])).fetchall()

        projected, dispatched = await rows("projected"), await rows("dispatched")
        owed = [Owed(*row) for row in await rows("oldest_owed")]
        jobs = [Jobs(*row) for row in await rows("jobs_by_state")]
        stopped = [Stopped(*row) for row in await rows("paused_lanes")]
        looked_up = await rows("next_offsets", CORRELATION)
        [(waiting, oldest)] = await rows("parked", CORRELATION)
    first_read = any(row[3] is not None for row in projected)
    at: Ends = {(row[0], row[1]): row[2] for row in projected}
    taken: Ends = {(row[0], row[1]): row[2] for row in dispatched}
    lags = [_lag("worker", topic, committed, beginnings, ends) for topic in (*FACTS, PROVIDER_WEBHOOKS)]
    lags += [_lag("dispatch", topic, taken, beginnings, ends) for topic in (SEND_REQUESTS, PROVIDER_ACKS)]
    correlated: Ends = {(row[0], row[1]): row[2] for row in looked_up}
    lags.append(_lag("dispatch", UNCORRELATED_EVENTS, correlated, beginnings, ends))
    project = _lag("project", EMAIL_CHANGES, at, beginnings, ends)
    note = "first read: debts are held until its end" if first_read else ""
    lags.append(msgspec.structs.replace(project, note=note))
    letters = sum(ends[place] - beginnings[place] for place in ends if place[0] == DEAD_LETTERS.name)
    parked = Parked(waiting, None if oldest is None else dt.datetime.fromtimestamp(oldest / 1000, dt.UTC))
    return Snapshot(lags, owed[0] if owed else None, jobs, stopped, parked, letters)


def _lag(role: str, topic: Topic, read: Ends, beginnings: Ends, ends: Ends) -> Lag:
    """What is between a role's next offset (the log's beginning, where it has none) and the end."""
    mine = [place for place in ends if place[0] == topic.name]
    behind = sum(max(0, ends[place] - max(read.get(place, 0), beginnings[place])) for place in mine)
    return Lag(role, topic.name, behind, sum(ends[place] for place in mine))


async def _ends(rt: Runtime, reader: AIOKafkaConsumer, read: tuple[Topic, ...]) -> tuple[Ends, Ends]:
    prefix = len(rt.settings.topic_prefix)
    partitions = [
        TopicPartition(rt.settings.topic(topic.name), number)
        for topic in read
        for number in range(1 if topic.single else rt.settings.partitions)
    ]
    reader.assign(partitions)
    beginnings = await reader.beginning_offsets(partitions)
    ends = await reader.end_offsets(partitions)

    def plain(offsets: Any) -> Ends:
        return {(place.topic[prefix:], place.partition): offset for place, offset in offsets.items()}

    return plain(beginnings), plain(ends)


async def _committed(rt: Runtime) -> Ends:
    client = AIOKafkaAdminClient(bootstrap_servers=rt.settings.kafka_bootstrap)
    await client.start()
    try:
        offsets = await client.list_consumer_group_offsets(rt.settings.topic_prefix + WORKER_GROUP)
    finally:
        await client.close()
    prefix = len(rt.settings.topic_prefix)
    return {(place.topic[prefix:], place.partition): row.offset for place, row in offsets.items() if row.offset >= 0}
