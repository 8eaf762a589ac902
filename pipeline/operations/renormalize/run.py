"""Normalize the webhooks of a period again, and append new and corrected events; `mailfold renormalize` calls it.

All earlier webhooks must have been processed before it starts, because it compares with the timeline in Postgres.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.dispatch.correlation.claims import ClaimKey, claim_key, proven_claims
from pipeline.dispatch.correlation.parked import SQL as CORRELATION
from pipeline.dispatch.correlation.parse import with_email_id
from pipeline.operations.renormalize.diff import (
    DiffKind,
    EventDiff,
    EventKey,
    Timeline,
    diff_event,
    retractions_of_changed_ids,
    unique_events,
)
from pipeline.operations.renormalize.preconditions import wait_until_caught_up
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.log import append_all, discover_partitions
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.leader import hold_command_lock
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.webhooks.base import UNCORRELATED
from pipeline.webhooks.normalize import normalize
from pipeline.webhooks.provider_message_ids import match_key
from pipeline.webhooks.token_readers import token_readers
from projections.columns import is_storable_id
from projections.history_queries import decode_fact
from projections.sql import SqlQueries
from projections.text import storable_text
from topics.changes import Fact
from topics.codec import NewerRecord, Undecodable, decode, require_known_version
from topics.events import DeliveryEvent
from topics.record import EmailId, LogPosition, Millis
from topics.registry import DAY_MS, DELIVERY_EVENTS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS
from topics.webhooks import RawWebhook

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
LOOKUP_BATCH_EVENTS: Final = 2000
"""Events after which a batch is looked up; a webhook may contain a thousand."""

EmailsByMessageId = Mapping[str, EmailId]
"""Emails by the provider's message id as `match_key` normalizes it."""

ProgressCallback = Callable[[int, int], None]
"""Called with the number of records read so far and the total."""


class RenormalizeRange(msgspec.Struct, frozen=True):
    """The provider and the period whose webhooks are normalized again."""

    provider: str
    since: Millis
    until: Millis | None = None


class RenormalizeSummary(msgspec.Struct):
    """The number of webhooks, and of their events by outcome."""

    webhooks: int = 0
    seen: int = 0
    same: int = 0
    repeats: int = 0
    """Events that an earlier webhook reported; only that one is compared."""
    new: int = 0
    changed: int = 0
    retracted: int = 0
    """Events that were stored under an id which they no longer have."""
    waiting: int = 0
    """Events whose email is still unknown."""
    not_understood: int = 0


class ParsedWebhook(msgspec.Struct, frozen=True):
    """The events of one webhook according to the current mapping."""

    received_at: Millis
    events: list[DeliveryEvent]


async def renormalize(
    rt: Runtime, period: RenormalizeRange, progress: ProgressCallback, *, dry_run: bool = False
) -> RenormalizeSummary:
    """Normalize the webhooks of a period again; with ``dry_run`` only count.

    Raise Refused if another run is active, or if the roles do not catch up.
    """
    async with hold_command_lock(rt, "renormalize"):
        await wait_until_caught_up(rt)
        reader = create_consumer(rt.settings)
        await reader.start()
        try:
            return await Renormalizer(rt, period, dry_run).run(reader, progress)
        finally:
            await reader.stop()


class Renormalizer:
    """One run of `mailfold renormalize`."""

    def __init__(self, rt: Runtime, period: RenormalizeRange, dry_run: bool) -> None:
        self._rt, self._range, self._dry_run = rt, period, dry_run
        self._token_readers = token_readers(secret_ring(rt.settings))
        self._now = rt.clock()
        self._appended: set[EventKey] = set()
        """Events that this run has appended; they may not be in Postgres yet."""
        self._skipped = SkippedRecords(rt.settings)
        self.summary = RenormalizeSummary()

    async def run(self, reader: AIOKafkaConsumer, progress: ProgressCallback) -> RenormalizeSummary:
        """Process all webhooks of the period and return the summary."""
        ends = await self._seek_to_start(reader)
        unfinished = dict(ends)
        total = sum([ends[partition] - await reader.position(partition) for partition in ends])
        progress(0, total)
        while unfinished:
            fetched = await reader.getmany(*unfinished, timeout_ms=500, max_records=100)
            records = [
                record for partition, batch in fetched.items() for record in batch if record.offset < ends[partition]
            ]
            known = await self._skipped.pass_over(records, _check_versions)
            for webhooks in _batches(webhook for record in known if (webhook := self._parse(record))):
                await self._process(webhooks)
            # The position instead of the last record: the records before the end may have expired meanwhile.
            unfinished = {
                partition: end for partition, end in unfinished.items() if await reader.position(partition) < end
            }
            remaining = sum([end - await reader.position(partition) for partition, end in unfinished.items()])
            progress(total - remaining, total)
        return self.summary

    async def _seek_to_start(self, reader: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Seek to the start of the period; return the end offsets of the partitions with records in it."""
        partitions = await discover_partitions(reader, self._rt.settings.topic(PROVIDER_WEBHOOKS.name))
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        starts = await _offsets_at(reader, dict.fromkeys(partitions, self._range.since), ends)
        if self._range.until is not None:
            ends = await _offsets_at(reader, dict.fromkeys(partitions, self._range.until), ends)
        for partition in partitions:
            reader.seek(partition, starts[partition])
        return {partition: ends[partition] for partition in partitions if starts[partition] < ends[partition]}

    def _parse(self, record: Any) -> ParsedWebhook | None:
        """Return the webhook in a record and count its events; None if it is not one of the provider."""
        try:
            webhook: RawWebhook = decode(PROVIDER_WEBHOOKS, record.value)
        except Undecodable:
            return None
        if webhook.provider != self._range.provider:
            return None
        position = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=record.partition, offset=record.offset)
        consumed = ConsumedRecord(PROVIDER_WEBHOOKS, position, record.key, record.value)
        normalized = normalize(consumed, self._token_readers, self._now)
        self.summary.webhooks += 1
        self.summary.seen += len(normalized.events) + len(normalized.dead_letters)
        self.summary.not_understood += len(normalized.dead_letters)
        events = unique_events(normalized.events)
        self.summary.repeats += len(normalized.events) - len(events)
        return ParsedWebhook(webhook.received_at, events)

    async def _process(self, webhooks: Sequence[ParsedWebhook]) -> None:
        """Compare the events of these webhooks with the timeline, and append what is new or changed."""
        emails, claims, parked = await self._find_emails([event for webhook in webhooks for event in webhook.events])
        entries: list[LogEntry] = []
        correlated: list[ParsedWebhook] = []
        for webhook in webhooks:
            events = [_correlate(event, emails, claims) for event in webhook.events]
            entries += self._uncorrelated_entries([event for event in events if event.email_id == UNCORRELATED], parked)
            correlated.append(
                ParsedWebhook(webhook.received_at, [event for event in events if is_storable_id(event.email_id)])
            )
        timeline = await self._read_timeline(correlated)
        for webhook in correlated:
            entries += self._correlated_entries(webhook, timeline)
        if entries and not self._dry_run:
            await append_all(self._rt.log, entries)

    def _correlated_entries(self, webhook: ParsedWebhook, timeline: Timeline) -> Iterator[LogEntry]:
        """Count the events of a webhook; yield those that are new or changed, and retractions."""
        for event in webhook.events:
            key = event.email_id, storable_text(event.event_id)
            diff = diff_event(event, timeline.get(key), self._now)
            if key in self._appended:
                diff = EventDiff(DiffKind.REPEAT)
            self._count(diff.kind)
            if diff.event is not None:
                self._appended.add(key)
                yield LogEntry(DELIVERY_EVENTS, event.email_id, diff.event)
        for retraction in retractions_of_changed_ids(webhook.events, timeline, self._now):
            key = retraction.email_id, storable_text(retraction.event_id)
            if key not in self._appended:
                self._appended.add(key)
                self.summary.retracted += 1
                yield LogEntry(DELIVERY_EVENTS, retraction.email_id, retraction)

    def _uncorrelated_entries(
        self, events: Sequence[DeliveryEvent], parked: Collection[tuple[str, str]]
    ) -> Iterator[LogEntry]:
        """Count events of unknown emails; yield those that are to be parked.

        An event that is parked already, or that is older than events may be parked, is only counted.
        """
        oldest = self._now - int(self._rt.settings.parked_days * DAY_MS)
        for event in events:
            key = UNCORRELATED, event.event_id
            if key in self._appended or (event.provider, event.event_id) in parked or event.recorded_at < oldest:
                self.summary.waiting += 1
                continue
            self._appended.add(key)
            self._count(DiffKind.NEW)
            yield LogEntry(UNCORRELATED_EVENTS, match_key(event.provider_message_id) or event.claimed_email_id, event)

    def _count(self, kind: DiffKind) -> None:
        match kind:
            case DiffKind.SAME:
                self.summary.same += 1
            case DiffKind.REPEAT:
                self.summary.repeats += 1
            case DiffKind.NEW:
                self.summary.new += 1
            case DiffKind.CHANGED:
                self.summary.changed += 1

    async def _find_emails(
        self, events: Sequence[DeliveryEvent]
    ) -> tuple[EmailsByMessageId, set[ClaimKey], set[tuple[str, str]]]:
        """Return the emails of events that prove none, the proven claims, and the provider and id of parked events."""
        unproven = [event for event in events if event.email_id == UNCORRELATED]
        if not unproven:
            return {}, set(), set()
        keys = {match_key(event.provider_message_id) for event in unproven} - {""}
        values = {"message_ids": list(keys), "providers": [self._range.provider] * len(keys)}
        claimed = {"claimed": [each.claimed_email_id for each in unproven if is_storable_id(each.claimed_email_id)]}
        async with self._rt.pool.connection() as connection:
            email_rows = await (await connection.execute(CORRELATION["known"], values)).fetchall()
            parked_rows = await (await connection.execute(SQL["waiting"], values | claimed)).fetchall()
            claims = await proven_claims(connection, unproven)
        parked = [decode(UNCORRELATED_EVENTS, event) for (event,) in parked_rows]
        emails = {row[0]: EmailId(row[2]) for row in email_rows}
        return emails, claims, {(event.provider, event.event_id) for event in parked}

    async def _read_timeline(self, webhooks: Sequence[ParsedWebhook]) -> dict[EventKey, Fact]:
        """Return the stored facts with which the events of these webhooks are compared."""
        events = [event for webhook in webhooks for event in webhook.events]
        if not events:
            return {}
        values = {
            "email_ids": list({event.email_id for event in events}),
            "event_ids": list({storable_text(event.event_id) for event in events}),
            "received": list({webhook.received_at for webhook in webhooks}),
        }
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["timeline"], values)).fetchall()
        return {(EmailId(email_id), event_id): decode_fact(fact) for email_id, event_id, fact in rows}


def _correlate(event: DeliveryEvent, emails: EmailsByMessageId, claims: Collection[ClaimKey]) -> DeliveryEvent:
    """Return the event with its email_id, if the email is known or the event's claim is proven."""
    if event.email_id != UNCORRELATED:
        return event
    claimed = event.claimed_email_id if claim_key(event) in claims else UNCORRELATED
    email_id = emails.get(match_key(event.provider_message_id), claimed)
    return event if email_id == UNCORRELATED else with_email_id(event, email_id)


async def _check_versions(records: Sequence[Any]) -> Sequence[Any]:
    """Return the records. Raise NewerRecord if one has a version that only a newer program knows."""
    for record in records:
        try:
            require_known_version(PROVIDER_WEBHOOKS, record.value)
        except NewerRecord as error:
            raise error.at(ConsumedRecord.of(PROVIDER_WEBHOOKS, record.partition, record).place) from None
    return records


def _batches(webhooks: Iterable[ParsedWebhook]) -> Iterator[list[ParsedWebhook]]:
    """Yield webhooks in batches of about LOOKUP_BATCH_EVENTS events, parsing only one batch at a time."""
    batch: list[ParsedWebhook] = []
    events = 0
    for webhook in webhooks:
        batch.append(webhook)
        events += len(webhook.events)
        if events >= LOOKUP_BATCH_EVENTS:
            yield batch
            batch, events = [], 0
    if batch:
        yield batch


async def _offsets_at(
    reader: AIOKafkaConsumer, times: dict[TopicPartition, Millis], ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the offset of the first record at or after a time, per partition; the end if there is none."""
    offsets = await reader.offsets_for_times(times)
    return {partition: ends[partition] if at is None else at.offset for partition, at in offsets.items()}
