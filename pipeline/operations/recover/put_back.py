"""Append to the log again what Postgres knows and the log has lost: facts, requests, decisions, templates.

A fact that is on the log twice counts once, by its event id, so that too much does no harm, and a repetition of the
command neither. What comes back is read by the roles as if it had never been away: states, changes and history follow.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.errors import LogUnavailable
from pipeline.operations.recover.losses import SQL, LogLoss
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.append import append_until_confirmed
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import topic_partition
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.database import connect_session
from projections import suppressions
from projections.history_queries import decode_fact
from topics.changes import Fact
from topics.codec import NewerRecord, Undecodable, decode
from topics.conversions import ConversionResult
from topics.events import DeliveryEvent, Retraction
from topics.record import Millis
from topics.registry import (
    CONVERSION_RESULTS,
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    PROVIDER_ACKS,
    SEND_REQUESTS,
    SUPPRESSIONS,
    TEMPLATES,
    Topic,
)
from topics.requests import SendRequest
from topics.suppressions import AddressLifted, AddressListed, SuppressionDecision, SuppressionReason
from topics.templates import Template

OVERLAP_MS: Final = 60 * 60 * 1000
"""Milliseconds before the log's last old record from which on everything is put back or read again: topics are not cut
at the same moment, and clocks differ."""
SEARCH_TIMEOUT_S: Final = 60.0
BATCH_ENTRIES: Final = 500
_DECISION_FIELDS: Final = ("tenant", "brand", "address_hash", "reason", "note", "by", "at")
FIRST_STEP_OFFSETS: Final = 64
"""How far before a place its last record is looked for first; then sixteen times as far, and so on."""


class PutBack(msgspec.Struct):
    """How many records of each kind were appended."""

    facts: int = 0
    requests: int = 0
    decisions: int = 0
    templates: int = 0


async def find_windows(consumer: AIOKafkaConsumer, rt: Runtime, losses: list[LogLoss]) -> dict[int, Millis]:
    """Return, by the number of a partition, the time from which on its emails' facts may be lost.

    Raise LogUnavailable.
    """
    windows: dict[int, Millis] = {}
    for loss in losses:
        if loss.topic in (EMAIL_CHANGES.name, SEND_REQUESTS.name, PROVIDER_ACKS.name):
            place = topic_partition(loss.topic, loss.partition, rt.settings)
            try:
                async with asyncio.timeout(SEARCH_TIMEOUT_S):
                    since = max(0, await _last_old_time(consumer, place, loss) - OVERLAP_MS)
            except TimeoutError:
                raise LogUnavailable(f"{place.topic}/{place.partition} can't be read") from None
            windows[loss.partition] = min(since, windows.get(loss.partition, since))
    return windows


async def put_back(rt: Runtime, windows: Mapping[int, Millis]) -> PutBack:
    """Append what Postgres has since the windows' beginnings; return how much. Waits until Kafka confirms all.

    Decisions and templates are compared with the log, one by one: their topics keep the latest of each key for ever,
    and what the log has of a later time must not be overruled by what is appended behind it.
    """
    done = PutBack()
    if windows:
        values = {"partitions": list(windows), "since": list(windows.values())}
        async for facts in _batches(rt, "facts", values):
            entries = [_entry_of(decode_fact(fact)) for (fact,) in facts]
            await append_until_confirmed(rt.log, entries)
            done.facts += len(entries)
        async for payloads in _batches(rt, "open_requests", {}):
            requests: list[SendRequest] = [decode(SEND_REQUESTS, payload) for (payload,) in payloads]
            late = [request for request in requests if request.recorded_at >= min(windows.values())]
            await append_until_confirmed(rt.log, [_entry_of(request) for request in late])
            done.requests += len(late)
    done.decisions = await _put_back_decisions(rt)
    done.templates = await _put_back_templates(rt)
    return done


async def count_unlogged(rt: Runtime) -> int:
    """Return how many decisions and templates are in Postgres, from a backup, and not on the log."""
    end, templates_end = await _end(rt, SUPPRESSIONS), await _end(rt, TEMPLATES)
    async with rt.pool.connection() as connection:
        values = {"is_read": await suppressions.read_next_offset(connection) >= end}
        row = await (await connection.execute(SQL["unlogged"], values)).fetchone()
    assert row is not None
    return int(row[0]) + (int(row[1]) if templates_end == 0 else 0)


async def _put_back_decisions(rt: Runtime) -> int:
    """Append the decisions about addresses of which the log has neither themselves nor a later one; return how many."""
    on_log: dict[str, Millis] = {}
    async for record in _records_of(rt, SUPPRESSIONS):
        try:
            decision: SuppressionDecision = decode(SUPPRESSIONS, record.value)
        except NewerRecord:
            on_log[(record.key or b"").decode(errors="replace")] = sys.maxsize  # who reads it must decide
        except Undecodable:
            continue
        else:
            on_log[decision.key] = max(decision.at, on_log.get(decision.key, 0))
    appended = 0
    async for rows in _batches(rt, "decisions", {}):
        decisions = [_decision(dict(zip(_DECISION_FIELDS, row, strict=True))) for row in rows]
        lost = [each for each in decisions if each.at > on_log.get(each.key, -1)]
        await append_until_confirmed(rt.log, [LogEntry(SUPPRESSIONS, each.key, each) for each in lost])
        appended += len(lost)
    return appended


async def _put_back_templates(rt: Runtime) -> int:
    """Append the versions of templates that the log does not have; return how many."""
    on_log = {record.key async for record in _records_of(rt, TEMPLATES)}
    appended = 0
    async for rows in _batches(rt, "templates", {}):
        templates: list[Template] = [decode(TEMPLATES, template) for (template,) in rows]
        lost = [each for each in templates if each.key.encode() not in on_log]
        await append_until_confirmed(rt.log, [LogEntry(TEMPLATES, each.key, each) for each in lost])
        appended += len(lost)
    return appended


async def _records_of(rt: Runtime, topic: Topic) -> AsyncIterator[Any]:
    """Yield all records of a topic that has one partition. Raise LogUnavailable if no more come before its end."""
    consumer = create_consumer(rt.settings)
    await start_client(consumer, rt.settings)
    try:
        place = topic_partition(topic.name, 0, rt.settings)
        consumer.assign([place])
        consumer.seek(place, (await consumer.beginning_offsets([place]))[place])
        end = (await consumer.end_offsets([place]))[place]
        last_progress = time.monotonic()
        while await consumer.position(place) < end:
            records: list[Any] = (await get_records(consumer, place, timeout_ms=200)).get(place, [])
            if records:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > SEARCH_TIMEOUT_S:
                raise LogUnavailable(f"{place.topic}/{place.partition} can't be read")
            for record in records:
                yield record
    finally:
        await consumer.stop()


def _decision(fields: dict[str, Any]) -> SuppressionDecision:
    if fields["reason"] is None:
        return AddressLifted(**{name: fields[name] for name in fields.keys() - {"reason", "note"}})
    return AddressListed(**fields | {"reason": SuppressionReason(fields["reason"])})


async def _batches(rt: Runtime, query: str, values: Mapping[str, Any]) -> AsyncIterator[list[Any]]:
    """Yield the rows of a query in batches; no more than one is in memory."""
    async with (
        await connect_session(rt.settings) as connection,
        connection.transaction(),
        connection.cursor(name="put_back") as cursor,
    ):
        await cursor.execute(SQL[query], values)
        while rows := await cursor.fetchmany(BATCH_ENTRIES):
            yield rows


async def _end(rt: Runtime, topic: Topic) -> int:
    """Return the end of a topic that has one partition."""
    consumer = create_consumer(rt.settings)
    await start_client(consumer, rt.settings)
    try:
        place = topic_partition(topic.name, 0, rt.settings)
        consumer.assign([place])
        return int((await consumer.end_offsets([place]))[place])
    finally:
        await consumer.stop()


def _entry_of(fact: Fact) -> LogEntry:
    """Return a fact with the topic that it belongs to."""
    topic = PROVIDER_ACKS
    if isinstance(fact, SendRequest):
        topic = SEND_REQUESTS
    elif isinstance(fact, DeliveryEvent | Retraction):
        topic = DELIVERY_EVENTS
    elif isinstance(fact, ConversionResult):
        topic = CONVERSION_RESULTS
    return LogEntry(topic, fact.email_id, fact)


async def _last_old_time(consumer: AIOKafkaConsumer, place: TopicPartition, loss: LogLoss) -> Millis:
    """Return the time of the log's last record that is no later than what was read; 0 if there is none."""
    if loss.last_time is None:
        return 0
    beginning = (await consumer.beginning_offsets([place]))[place]
    until = await first_offset_after(consumer, place, loss.last_time)
    step, start = FIRST_STEP_OFFSETS, until
    while start > beginning:
        start, step = max(beginning, until - step), 16 * step
        consumer.seek(place, start)
        last_time = 0
        while await consumer.position(place) < until:
            records: list[Any] = (await get_records(consumer, place, timeout_ms=200)).get(place, [])
            last_time = max((record.timestamp for record in records if record.offset < until), default=last_time)
        if last_time:
            return last_time
    return 0


async def first_offset_after(consumer: AIOKafkaConsumer, place: TopicPartition, time: Millis) -> int:
    """Return the offset of the first record that is later than a time; the log's end if there is none."""
    found = (await consumer.offsets_for_times({place: time + 1}))[place]
    return int((await consumer.end_offsets([place]))[place] if found is None else found.offset)
