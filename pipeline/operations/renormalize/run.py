"""`mailfold renormalize`: `provider-webhooks` from a time on in; new and corrected events appended, and a count of all.

Before it reads, everything before it must have been read: what was told is looked up in Postgres.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

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
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.kafka import append_all, create_consumer, discover_partitions
from pipeline.runtime.leader import hold_command_lock
from pipeline.runtime.ports import LogEntry
from pipeline.webhooks.base import UNCORRELATED
from pipeline.webhooks.message_ids import match_key
from pipeline.webhooks.normalize import normalize
from pipeline.webhooks.proofs import token_readers_of
from projections.columns import is_storable_id
from projections.postgres import decode_fact
from projections.sql import SqlQueries
from projections.text import storable_text
from topics.changes import Fact
from topics.codec import Undecodable, decode
from topics.events import DeliveryEvent
from topics.record import EmailId, LogPosition, Millis
from topics.registry import DAY_MS, DELIVERY_EVENTS, PROVIDER_WEBHOOKS, UNCORRELATED_EVENTS
from topics.webhooks import RawWebhook

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
LOOKUP_BATCH_EVENTS: Final = 2000
"""Events looked up at once; one webhook may hold a thousand."""

EmailsByMessageId = Mapping[str, EmailId]
"""What the provider calls a message, in its one spelling -> whose it is."""

ProgressCallback = Callable[[int, int], None]
"""Told how many records are read, of how many."""


class RenormalizeRange(msgspec.Struct, frozen=True):
    """Which part of the past."""

    provider: str
    since: Millis
    until: Millis | None = None


class RenormalizeSummary(msgspec.Struct):
    """What was found; events, but for the webhooks."""

    webhooks: int = 0
    seen: int = 0
    same: int = 0
    repeats: int = 0
    """Told by an earlier webhook, which is the one compared."""
    new: int = 0
    changed: int = 0
    retracted: int = 0
    """Told under an id that they no longer have."""
    waiting: int = 0
    """Of no email that is known, as before."""
    not_understood: int = 0


class ParsedWebhook(msgspec.Struct, frozen=True):
    """One webhook, as it is read today."""

    received_at: Millis
    events: list[DeliveryEvent]


async def renormalize(
    rt: Runtime, wanted: RenormalizeRange, progress: ProgressCallback, *, dry_run: bool = False
) -> RenormalizeSummary:
    """Read this part of the past anew. Raises Refused where another does, or where the roles are behind."""
    async with hold_command_lock(rt, "renormalize"):
        await wait_until_caught_up(rt)
        reader = create_consumer(rt.settings)
        await reader.start()
        try:
            return await Renormalizer(rt, wanted, dry_run).run(reader, progress)
        finally:
            await reader.stop()


class Renormalizer:
    """One run."""

    def __init__(self, rt: Runtime, wanted: RenormalizeRange, dry_run: bool) -> None:
        self._rt, self._wanted, self._dry_run = rt, wanted, dry_run
        self._proofs = token_readers_of(rt.settings)
        self._now = rt.clock()
        self._appended: set[EventKey] = set()
        """In this run: Postgres doesn't know of them yet."""
        self.summary = RenormalizeSummary()

    async def run(self, reader: AIOKafkaConsumer, progress: ProgressCallback) -> RenormalizeSummary:
        """All of it."""
        ends = await self._begin(reader)
        left = dict(ends)
        total = sum([ends[place] - await reader.position(place) for place in ends])
        progress(0, total)
        while left:
            fetched = await reader.getmany(*left, timeout_ms=500, max_records=100)
            records = [record for place, some in fetched.items() for record in some if record.offset < ends[place]]
            for heard in _in_portions(one for record in records if (one := self._heard(record))):
                await self._compare(heard)
            # The position, for records may have expired meanwhile.
            left = {place: end for place, end in left.items() if await reader.position(place) < end}
            progress(total - sum([end - await reader.position(place) for place, end in left.items()]), total)
        return self.summary

    async def _begin(self, reader: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Seek to the beginning; where it ends. Partitions without anything to read are not in it."""
        places = await discover_partitions(reader, self._rt.settings.topic(PROVIDER_WEBHOOKS.name))
        reader.assign(places)
        ends = await reader.end_offsets(places)
        first = await _offsets(reader, dict.fromkeys(places, self._wanted.since), ends)
        if self._wanted.until is not None:
            ends = await _offsets(reader, dict.fromkeys(places, self._wanted.until), ends)
        for place in places:
            reader.seek(place, first[place])
        return {place: ends[place] for place in places if first[place] < ends[place]}

    def _heard(self, record: Any) -> ParsedWebhook | None:
        """A webhook of the provider's, as it is read today."""
        try:
            webhook: RawWebhook = decode(PROVIDER_WEBHOOKS, record.value)
        except Undecodable:
            return None
        if webhook.provider != self._wanted.provider:
            return None
        place = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=record.partition, offset=record.offset)
        told = normalize(ConsumedRecord(PROVIDER_WEBHOOKS, place, record.key, record.value), self._proofs, self._now)
        self.summary.webhooks += 1
        self.summary.seen += len(told.events) + len(told.dead_letters)
        self.summary.not_understood += len(told.dead_letters)
        events = unique_events(told.events)
        self.summary.repeats += len(told.events) - len(events)
        return ParsedWebhook(webhook.received_at, events)

    async def _compare(self, heard: Sequence[ParsedWebhook]) -> None:
        emails, parked = await self._look_up([event for one in heard for event in one.events])
        entries: list[LogEntry] = []
        correlated: list[ParsedWebhook] = []
        for one in heard:
            known = [_correlated(event, emails) for event in one.events]
            entries += self._to_park([event for event in known if event.email_id == UNCORRELATED], parked)
            correlated.append(
                ParsedWebhook(one.received_at, [event for event in known if is_storable_id(event.email_id)])
            )
        timeline = await self._timeline(correlated)
        for one in correlated:
            entries += self._to_tell(one, timeline)
        if entries and not self._dry_run:
            await append_all(self._rt.log, entries)

    def _to_tell(self, heard: ParsedWebhook, timeline: Timeline) -> Iterator[LogEntry]:
        for event in heard.events:
            name = event.email_id, storable_text(event.event_id)
            judged = diff_event(event, timeline.get(name), self._now)
            if name in self._appended:
                judged = EventDiff(DiffKind.REPEAT)
            self._count(judged.kind)
            if judged.event is not None:
                self._appended.add(name)
                yield LogEntry(DELIVERY_EVENTS, event.email_id, judged.event)
        for retraction in retractions_of_changed_ids(heard.events, timeline, self._now):
            name = retraction.email_id, storable_text(retraction.event_id)
            if name not in self._appended:
                self._appended.add(name)
                self.summary.retracted += 1
                yield LogEntry(DELIVERY_EVENTS, retraction.email_id, retraction)

    def _to_park(self, events: Sequence[DeliveryEvent], parked: Collection[tuple[str, str]]) -> Iterator[LogEntry]:
        """What is of no email that is known waits for its ack, unless it does, or did so for long enough."""
        long_ago = self._now - int(self._rt.settings.parked_days * DAY_MS)
        for event in events:
            name = UNCORRELATED, event.event_id
            if name in self._appended or (event.provider, event.event_id) in parked or event.recorded_at < long_ago:
                self.summary.waiting += 1
                continue
            self._appended.add(name)
            self._count(DiffKind.NEW)
            yield LogEntry(UNCORRELATED_EVENTS, match_key(event.provider_message_id), event)

    def _count(self, verdict: DiffKind) -> None:
        match verdict:
            case DiffKind.SAME:
                self.summary.same += 1
            case DiffKind.REPEAT:
                self.summary.repeats += 1
            case DiffKind.NEW:
                self.summary.new += 1
            case DiffKind.CHANGED:
                self.summary.changed += 1

    async def _look_up(self, events: Sequence[DeliveryEvent]) -> tuple[EmailsByMessageId, set[tuple[str, str]]]:
        """The emails of those that name none, and which of them are parked, by provider and event id."""
        keys = {match_key(event.provider_message_id) for event in events if event.email_id == UNCORRELATED}
        if not keys:
            return {}, set()
        names = {"message_ids": list(keys), "providers": [self._wanted.provider] * len(keys)}
        async with self._rt.pool.connection() as connection:
            known = await (await connection.execute(CORRELATION["known"], names)).fetchall()
            waiting = await (await connection.execute(SQL["waiting"], names)).fetchall()
        events_of = [decode(UNCORRELATED_EVENTS, event) for (event,) in waiting]
        return {row[0]: EmailId(row[2]) for row in known}, {(one.provider, one.event_id) for one in events_of}

    async def _timeline(self, heard: Sequence[ParsedWebhook]) -> dict[EventKey, Fact]:
        events = [event for one in heard for event in one.events]
        if not events:
            return {}
        values = {
            "email_ids": list({event.email_id for event in events}),
            "event_ids": list({storable_text(event.event_id) for event in events}),
            "received": list({one.received_at for one in heard}),
        }
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["timeline"], values)).fetchall()
        return {(EmailId(email_id), event_id): decode_fact(fact) for email_id, event_id, fact in rows}


def _correlated(event: DeliveryEvent, emails: EmailsByMessageId) -> DeliveryEvent:
    if event.email_id != UNCORRELATED:
        return event
    return with_email_id(event, emails.get(match_key(event.provider_message_id), UNCORRELATED))


def _in_portions(heard: Iterable[ParsedWebhook]) -> Iterator[list[ParsedWebhook]]:
    """Webhooks together, until their events are enough for one look-up; no more are read ahead."""
    portion: list[ParsedWebhook] = []
    events = 0
    for one in heard:
        portion.append(one)
        events += len(one.events)
        if events >= LOOKUP_BATCH_EVENTS:
            yield portion
            portion, events = [], 0
    if portion:
        yield portion


async def _offsets(
    reader: AIOKafkaConsumer, times: dict[TopicPartition, Millis], ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The first record from a time on; the end where there is none yet."""
    found = await reader.offsets_for_times(times)
    return {place: ends[place] if at is None else at.offset for place, at in found.items()}
