"""The oracle: plain readers of topics and tables, and what must hold. Shares no code with the product."""

import json
from collections import defaultdict
from typing import Any

import aiokafka
import psycopg

FACT_TOPICS = ("send-requests", "provider-acks", "delivery-events", "conversion-results")
ENDS = {"delivered", "refused", "given_up"}


async def dump(bootstrap: str, topic: str) -> list[tuple[int, int, str | None, bytes | None]]:
    """Every committed record of a topic: (partition, offset, key, value)."""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        partitions = [
            aiokafka.TopicPartition(topic, number)
            for number in sorted(consumer.partitions_for_topic(topic) or await _partitions(consumer, topic))
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        rows: list[tuple[int, int, str | None, bytes | None]] = []
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for partition, records in (await consumer.getmany(timeout_ms=500)).items():
                rows += [
                    (partition.partition, record.offset, record.key and record.key.decode(), record.value)
                    for record in records
                ]
        return rows
    finally:
        await consumer.stop()


async def _partitions(consumer: Any, topic: str) -> set[int]:
    await consumer._client.force_metadata_update()
    consumer._client.add_topic(topic)
    await consumer._client.force_metadata_update()
    return set(consumer.partitions_for_topic(topic) or ())


async def facts(bootstrap: str, prefix: str) -> dict[str, list[dict[str, Any]]]:
    """Every fact on the log, by email id."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for topic in FACT_TOPICS:
        for _, _, key, value in await dump(bootstrap, prefix + topic):
            assert key is not None
            assert value is not None
            found[key].append(json.loads(value))
    return found


async def latest_states(bootstrap: str, prefix: str) -> dict[str, dict[str, Any]]:
    """The newest state of each email on the changelog."""
    newest: dict[str, dict[str, Any]] = {}
    for _, _, key, value in await dump(bootstrap, prefix + "email-states"):
        assert key is not None
        if value is None:
            newest.pop(key, None)
        else:
            newest[key] = json.loads(value)
    return newest


EVENT_MARK = {"opened": "opened_machine", "clicked": "clicked_machine"}


def marks_of(facts_of_one: list[dict[str, Any]]) -> dict[str, int]:
    """How many distinct events of each kind one email's facts tell: a plain fold of our own."""
    seen: dict[str, set[str]] = defaultdict(set)
    for fact in facts_of_one:
        kind = fact["type"].split("/")[0]
        if kind == "send-request":
            seen["accepted"].add("once")
        elif kind == "delivery-event":
            mark = EVENT_MARK[fact["kind"]] if fact.get("machine") and fact["kind"] in EVENT_MARK else fact["kind"]
            seen[mark].add(fact["event_id"])
        elif kind != "conversion-result":
            mark = {"acked": "sent", "rejected": "bounced"}.get(kind, kind)
            seen[mark].add(fact["event_id"])
    return {mark: len(ids) for mark, ids in seen.items()}


def settled_of(facts_of_one: list[dict[str, Any]]) -> set[str]:
    """Which words one email's facts say are settled."""
    return {
        fact["word"]
        for fact in facts_of_one
        if fact["type"].startswith("conversion-result") and fact["outcome"] in ENDS
    }


def check_states(everything: dict[str, list[dict[str, Any]]], states: dict[str, dict[str, Any]]) -> None:
    """The changelog holds exactly what a plain fold of the fact topics gives, email by email."""
    assert set(states) == set(everything)
    for email_id, of_one in everything.items():
        state = states[email_id]
        marks = {
            name: len(value[3])
            for name, value in state.items()
            if isinstance(value, list) and len(value) == 4 and isinstance(value[3], list)
        }
        expected = marks_of(of_one)
        if "accepted" in marks:
            marks["accepted"] = 1
        assert marks == expected, f"{email_id}: the state says {marks}, its facts {expected}"
        assert set(state.get("settled", {})) == settled_of(of_one)


def check_history(url: str, expected: dict[str, str]) -> None:
    """Every accepted email is in the history with the status it must have."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select email_id::text, status from projections.history").fetchall()
    statuses: dict[str, str] = dict(rows)
    wrong = {
        email_id: (statuses.get(email_id), status)
        for email_id, status in expected.items()
        if statuses.get(email_id) != status
    }
    assert not wrong, f"(found, expected) by email: {wrong}"


def open_jobs(url: str) -> list[tuple[Any, ...]]:
    """Jobs that are neither done nor dead."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select queue, stream::text, name, state, attempts, last_error from jobs.jobs "
            "where state not in ('done', 'dead')"
        ).fetchall()


async def lag(bootstrap: str, url: str, prefix: str) -> dict[str, int]:
    """How far each reader is behind: projector and dispatcher by their own tables, the worker by its group."""
    behind: dict[str, int] = {}
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}mailfold",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        with psycopg.connect(url) as connection:
            projected = {
                (row[0], row[1]): row[2]
                for row in connection.execute("select topic, partition, next_offset from projections.next_offsets")
            }
            taken = {
                (row[0], row[1]): row[2]
                for row in connection.execute("select topic, partition, next_offset from jobs.next_offsets")
            }
        for name in (*FACT_TOPICS, "provider-webhooks", "email-changes"):
            for number in await _partitions(consumer, prefix + name):
                partition = aiokafka.TopicPartition(prefix + name, number)
                end = (await consumer.end_offsets([partition]))[partition]
                if name == "email-changes":
                    at = projected.get((name, number), 0)
                    behind[f"project {name}/{number}"] = end - at
                    continue
                if name in ("send-requests", "provider-acks"):
                    behind[f"dispatch {name}/{number}"] = end - taken.get((name, number), 0)
                behind[f"worker {name}/{number}"] = end - (await consumer.committed(partition) or 0)
    finally:
        await consumer.stop()
    return {who: offsets for who, offsets in behind.items() if offsets}
