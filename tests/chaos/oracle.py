"""Plain readers of topics and tables, which share no code with the product."""

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import aiokafka
import psycopg

from tests.chaos.fold import Fact

FACT_TOPICS = ("send-requests", "provider-acks", "delivery-events", "conversion-results")
Place = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass(frozen=True)
class Row:
    """A committed record."""

    place: Place
    key: str | None
    value: bytes | None


async def dump(bootstrap: str, prefix: str, topic: str) -> list[Row]:
    """Return every committed record of a topic, in order within each partition."""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        max_partition_fetch_bytes=8_000_000,
    )
    await consumer.start()
    try:
        partitions = await partitions_of(consumer, prefix + topic)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        rows: list[Row] = []
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for partition, records in (await consumer.getmany(timeout_ms=500)).items():
                rows += [
                    Row((topic, partition.partition, record.offset), _text(record.key), record.value)
                    for record in records
                ]
        return sorted(rows, key=lambda row: row.place)
    finally:
        await consumer.stop()


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="replace")


async def partitions_of(consumer: Any, topic: str) -> list[aiokafka.TopicPartition]:
    """Return the partitions of a topic, even if the consumer has no metadata of it yet."""
    consumer._client.add_topic(topic)
    await consumer._client.force_metadata_update()
    return [aiokafka.TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]


async def facts(bootstrap: str, prefix: str, poison: Collection[Place] = ()) -> dict[str, dict[Place, Fact]]:
    """Return every fact on the log by email id and position, without the invalid records in ``poison``."""
    found: dict[str, dict[Place, Fact]] = defaultdict(dict)
    for topic in FACT_TOPICS:
        for row in await dump(bootstrap, prefix, topic):
            if row.place not in poison:
                assert row.key is not None
                assert row.value is not None
                found[row.key][row.place] = json.loads(row.value)
    return found


async def latest_states(bootstrap: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the newest state of each email on the changelog."""
    newest: dict[str, dict[str, Any]] = {}
    for row in await dump(bootstrap, prefix, "email-states"):
        assert row.key is not None
        if row.value is None:
            newest.pop(row.key, None)
        else:
            newest[row.key] = json.loads(row.value)
    return newest


async def changes(bootstrap: str, prefix: str) -> list[dict[str, Any]]:
    """Return every change, in order within each partition, without the fields that only hold times."""
    rows = [json.loads(row.value or b"null") for row in await dump(bootstrap, prefix, "email-changes")]
    return [row for row in rows if row["type"].startswith("email-change/")]


def table(url: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type,unused-ignore]


def statuses(url: str) -> dict[str, str]:
    """Return the status of each email in the history."""
    return dict(table(url, "select email_id::text, status from projections.history"))


def open_jobs(url: str) -> list[tuple[Any, ...]]:
    """Return the jobs that are neither done nor dead."""
    return table(
        url,
        "select queue, stream::text, name, state, attempts, lane, last_error from jobs.jobs "
        "where state not in ('done', 'dead')",
    )


def dead_jobs(url: str) -> list[tuple[Any, ...]]:
    """Return the dead jobs."""
    return table(url, "select queue, stream::text, name, lane, last_error from jobs.jobs where state = 'dead'")


def uncounted_rows(url: str) -> int:
    """Return how many rows of the history a version without statistics wrote last; none before there were any."""
    column = "select 1 from information_schema.columns where table_schema = 'projections' and column_name = %s"
    with psycopg.connect(url) as connection:
        if connection.execute(column, ("counted_version",)).fetchone() is None:
            return 0
        count = "select count(*) from projections.history where counted_version <> version"
        row = connection.execute(count).fetchone()
    return 0 if row is None else int(row[0])


async def lag(bootstrap: str, url: str, prefix: str) -> dict[str, int]:
    """Return the lag of each reader: of projector and dispatcher by their own tables, of the worker by its group."""
    behind: dict[str, int] = {}
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}mailfold",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        projected = _offsets(url, "projections.next_offsets")
        taken = _offsets(url, "jobs.next_offsets")
        for name in (*FACT_TOPICS, "provider-webhooks", "email-changes"):
            partitions = await partitions_of(consumer, prefix + name)
            ends = await consumer.end_offsets(partitions)
            for partition in partitions:
                end, place = ends[partition], (name, partition.partition)
                if name == "email-changes":
                    behind[f"project {name}/{place[1]}"] = end - projected.get(place, 0)
                    continue
                if name in ("send-requests", "provider-acks"):
                    behind[f"dispatch {name}/{place[1]}"] = end - taken.get(place, 0)
                behind[f"worker {name}/{place[1]}"] = end - (await consumer.committed(partition) or 0)
    finally:
        await consumer.stop()
    return {who: offsets for who, offsets in behind.items() if offsets > 0}


def _offsets(url: str, name: str) -> dict[tuple[str, int], int]:
    rows = table(url, f"select topic, partition, next_offset from {name}")
    return {(topic, partition): offset for topic, partition, offset in rows}
