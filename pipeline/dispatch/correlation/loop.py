"""Match `uncorrelated-events` with `provider-acks` and append the events, with their email, to `delivery-events`.

Run by `mailfold dispatch`. An event that does not prove its email is correlated by the message id that its provider
uses; the ack of the send tells which email has that id. An event that only claims an email counts if an ack tells that
its provider got this email. Whichever arrives first is parked in Postgres until the other arrives. One dispatcher at a
time reads both topics. A parked row is deleted only after its event is on the log, so a crash in between repeats the
event, which has no effect.

The account of a provider may also carry other senders' mail. Its events are parked like any other, and become dead
letters with that reason after ``parked_days``.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import Histogram

from pipeline.dispatch.correlation.claims import claim_key, proven_claims
from pipeline.dispatch.correlation.parked import SQL
from pipeline.dispatch.correlation.parse import (
    CorrelationBatch,
    EventPosition,
    UncorrelatedEvent,
    parse_records,
    with_email_id,
)
from pipeline.dispatch.correlation.store import key_columns, write_and_match
from pipeline.dispatch.metrics import DispatchMetrics
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka.append import append_until_confirmed
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import discover_partitions
from pipeline.runtime.kafka.reader_progress import ReaderProgress, observe_reader
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.observing.tracing import batch_attributes, traceparent_of
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.leader import ReaderOffsets, run_as_leader
from topics.codec import decode
from topics.dead_letters import dead_letter
from topics.record import EmailId, LogPosition, Millis
from topics.registry import DAY_MS, DEAD_LETTERS, DELIVERY_EVENTS, PROVIDER_ACKS, UNCORRELATED_EVENTS

logger = get_logger(__name__)

MAX_RECORDS_PER_POLL: Final = 2000
MAX_ROWS_PER_STATEMENT: Final = 1000
"""Rows that are correlated, given up or deleted in one statement."""
CLAIMS_INTERVAL_MS: Final = 10_000
"""Milliseconds between two looks at all parked claims: the ack that proves one may be projected later."""
GATHER_S: Final = 0.05
"""Seconds between two transactions, in which more records come: one of many costs hardly more than one of a few."""
CLEANUP_INTERVAL_MS: Final = 60_000
_BEFORE_ALL_CLAIMS: Final = (-1, -1)
LOCK_NAME: Final = "mailfold.correlation"


async def run_correlation(rt: Runtime, metrics: DispatchMetrics) -> None:
    """Read until ``rt.stop``, as long as no other dispatcher does."""
    progress = observe_reader(rt, metrics.readers, "correlation")
    await run_as_leader(rt, LOCK_NAME, lambda: Correlator(rt, progress, metrics.correlation_seconds).run())


class Correlator:
    """Reader of both topics that matches events with acks."""

    def __init__(self, rt: Runtime, progress: ReaderProgress, transaction_seconds: Histogram) -> None:
        self._rt = rt
        self._progress = progress
        self._transaction_seconds = transaction_seconds
        self._acks_topic = rt.settings.topic(PROVIDER_ACKS.name)
        self._positions = ReaderOffsets(rt, (PROVIDER_ACKS, UNCORRELATED_EVENTS), SQL)
        self._skipped = SkippedRecords(rt.settings)
        self._unread_ack_ends: dict[TopicPartition, int] = {}
        """End offsets of the acks at the start, until they are reached: no event is given up before."""
        self._cleaned_up_at = 0
        self._claims_checked_at = 0
        self._claims_after = _BEFORE_ALL_CLAIMS

    async def run(self) -> None:
        """Read until cancelled. Raises LeaseLost if another reader moved the offsets."""
        reader = create_consumer(self._rt.settings, fetch_max_wait_ms=500)
        await start_client(reader, self._rt.settings)
        try:
            await self._assign(reader)
            self._progress.begin(reader, lambda: self._positions.next_offsets)
            await self._append_matched()
            while True:
                batches = await get_records(reader, timeout_ms=500, max_records=MAX_RECORDS_PER_POLL)
                if batches:
                    await self._process(batches)
                    await asyncio.sleep(GATHER_S)
                await self._check_claims()
                if await self._has_read_acks(reader):
                    await self._clean_up()
        finally:
            self._progress.end()
            for place, reason in self._positions.lost.items():
                self._progress.note_lost(place, reason)
            await reader.stop()

    async def _assign(self, reader: AIOKafkaConsumer) -> None:
        stored = await self._positions.stored_offsets()
        partitions = await discover_partitions(reader, *self._positions.topics)
        reader.assign(partitions)
        ends = await self._positions.ends(reader, stored)
        new = [partition for partition in partitions if partition not in stored]
        first = stored | await self._first_offsets(reader, new)
        for partition in partitions:
            self._positions.next_offsets[partition] = first[partition]
            reader.seek(partition, first[partition])
        await self._positions.add_partitions(new)
        self._unread_ack_ends = {place: end for place, end in ends.items() if place.topic == self._acks_topic}

    async def _has_read_acks(self, reader: AIOKafkaConsumer) -> bool:
        for partition, end in list(self._unread_ack_ends.items()):
            # The consumer's position also passes records that have expired.
            if max(self._positions.next_offsets[partition], await reader.position(partition)) >= end:
                del self._unread_ack_ends[partition]
        return not self._unread_ack_ends

    async def _first_offsets(
        self, reader: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return where to begin: at the first event, and at the first ack whose id would still be kept.

        The log may hold acks of 400 days, most of them too old to be looked up.
        """
        if not partitions:
            return {}
        beginnings, ends = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
        since = {each: self._oldest_kept_id() for each in partitions if each.topic == self._acks_topic}
        offsets = await reader.offsets_for_times(since) if since else {}
        recent = {each: ends[each] if offset is None else offset.offset for each, offset in offsets.items()}
        return dict(beginnings) | recent

    async def _process(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        for partition, records in batches.items():
            self._positions.require_following(partition, records[0].offset)
            self._progress.add_fetched(partition, records)
        batch = await self._skipped.pass_over(list(itertools.chain(*batches.values())), self._parse)
        if batch.broken:
            dead_letters = [self._positions.dead_letter_entry(record, error) for record, error in batch.broken]
            await append_until_confirmed(self._rt.log, dead_letters)
        unmatched = await self._append_known(batch.waiting, self._contexts(batches))
        upto = {partition: records[-1].offset + 1 for partition, records in batches.items()}
        with self._transaction_seconds.time():
            async with self._rt.pool.connection() as connection:
                matched = await write_and_match(connection, batch, unmatched)
                await self._positions.advance(connection, upto, batches)
        self._positions.next_offsets |= upto
        self._progress.finish(upto)
        if matched:
            await self._append_matched()

    async def _parse(self, records: Sequence[Any]) -> CorrelationBatch:
        return parse_records(self._positions.topics, records)

    def _contexts(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> dict[tuple[int, int], str]:
        """Return the trace contexts of traced events, by partition and offset."""
        if not self._rt.tracer.is_on:
            return {}
        return {
            (partition.partition, record.offset): context
            for partition, records in batches.items()
            if partition.topic != self._acks_topic
            for record in records
            if (context := traceparent_of(record))
        }

    async def _append_known(
        self, events: Sequence[UncorrelatedEvent], contexts: Mapping[tuple[int, int], str]
    ) -> list[UncorrelatedEvent]:
        """Append the events whose email is already known, and return the others, which must be parked.

        After a crash they are read and appended again. A parked event loses its trace.
        """
        if not events:
            return []
        email_ids = await self._find_emails(events)
        known = [each for each in events if each.position in email_ids]
        traced = [each for each in known if each.position in contexts]
        await self._append_events([each for each in known if each.position not in contexts], email_ids)
        causes = [contexts[each.position] for each in traced]
        attributes = batch_attributes(UNCORRELATED_EVENTS.name, {email_ids[each.position] for each in traced})
        with self._rt.tracer.span("correlate", "consumer", causes, attributes):
            await self._append_events(traced, email_ids)
        return [each for each in events if each.position not in email_ids]

    async def _find_emails(self, events: Sequence[UncorrelatedEvent]) -> dict[EventPosition, EmailId]:
        """Return the emails that the acks' message ids tell, or that the events claim and the acks prove."""
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["known"], key_columns(each.key for each in events))).fetchall()
            email_ids = {(provider, message_id): EmailId(email_id) for message_id, provider, email_id in rows}
            by_id = {each.position: email_ids[each.key] for each in events if each.key in email_ids}
            claiming = [each for each in events if each.position not in by_id and each.event.claimed_email_id]
            proven = await proven_claims(connection, [each.event for each in claiming])
        return by_id | {
            each.position: each.event.claimed_email_id for each in claiming if claim_key(each.event) in proven
        }

    async def _append_events(
        self, events: Sequence[UncorrelatedEvent], email_ids: Mapping[EventPosition, EmailId]
    ) -> None:
        found = [with_email_id(each.event, email_ids[each.position]) for each in events]
        await append_until_confirmed(
            self._rt.log, [LogEntry(DELIVERY_EVENTS, event.email_id, event) for event in found]
        )

    async def _check_claims(self) -> None:
        """Look at one page of the parked claims, and append the events of those that are proven by now."""
        now = self._rt.clock()
        if now - self._claims_checked_at < CLAIMS_INTERVAL_MS:
            return
        partition, place = self._claims_after
        rows = await self._rows("claims", partition=partition, place=place, limit=MAX_ROWS_PER_STATEMENT)
        events = [(row, decode(UNCORRELATED_EVENTS, row[2])) for row in rows]
        async with self._rt.pool.connection() as connection:
            proven = await proven_claims(connection, [event for _, event in events])
        if matched := [row for row, event in events if claim_key(event) in proven]:
            await self._update("accept_claims", matched)
            await self._append_matched()
        if len(rows) < MAX_ROWS_PER_STATEMENT:
            self._claims_after, self._claims_checked_at = _BEFORE_ALL_CLAIMS, now
        else:
            self._claims_after = rows[-1][0], rows[-1][1]

    async def _append_matched(self) -> None:
        """Append parked events whose email is known now, and unpark them once Kafka has confirmed them."""
        while rows := await self._rows("to_tell", limit=MAX_ROWS_PER_STATEMENT):
            events = [with_email_id(decode(UNCORRELATED_EVENTS, row[3]), EmailId(row[2])) for row in rows]
            entries = [LogEntry(DELIVERY_EVENTS, event.email_id, event) for event in events]
            await append_until_confirmed(self._rt.log, entries)
            crash_point("correlate.before-unpark")
            await self._update("unpark", rows)

    async def _clean_up(self) -> None:
        """Turn events parked for too long into dead letters and delete old ids; once per CLEANUP_INTERVAL_MS."""
        now = self._rt.clock()
        if now - self._cleaned_up_at < CLEANUP_INTERVAL_MS:
            return
        before = now - int(self._rt.settings.parked_days * DAY_MS)
        while rows := await self._rows("expired", before=before, limit=MAX_ROWS_PER_STATEMENT):
            await append_until_confirmed(self._rt.log, [self._give_up_entry(row) for row in rows])
            await self._update("give_up", rows)
            logger.info("events matched no email, sent to the dead letters", events=len(rows))
        async with self._rt.pool.connection() as connection:
            values = {"before": self._oldest_kept_id(), "limit": 10 * MAX_ROWS_PER_STATEMENT}
            deleted = (await connection.execute(SQL["forget_ids"], values)).rowcount
        # If there may be more to delete, the next round follows at once.
        self._cleaned_up_at = now if deleted < 10 * MAX_ROWS_PER_STATEMENT else 0

    def _give_up_entry(self, row: tuple[Any, ...]) -> LogEntry:
        partition, offset, message_id, provider, claimed, event = row
        source = LogPosition(topic=UNCORRELATED_EVENTS.name, partition=partition, offset=offset)
        waited = f"{self._rt.settings.parked_days:g} days"
        reason, error = "uncorrelated", f"no email of ours in {waited}"
        if claimed is not None:
            reason = "unproven"
            error = f"names email {claimed} without our tag, and no ack in {waited} tells that {provider} got it"
        key, value = (message_id or claimed or "").encode(), bytes(event)
        letter = dead_letter(source, self._rt.clock(), reason, error, role="dispatch", key=key, value=value)
        return LogEntry(DEAD_LETTERS, None, letter)

    def _oldest_kept_id(self) -> Millis:
        return self._rt.clock() - int(self._rt.settings.provider_id_days * DAY_MS)

    async def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        async with self._rt.pool.connection() as connection:
            return await (await connection.execute(SQL[query], values)).fetchall()

    async def _update(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        values = {"partitions": [row[0] for row in rows], "places": [row[1] for row in rows]}
        async with self._rt.pool.connection() as connection:
            await connection.execute(SQL[query], values)
