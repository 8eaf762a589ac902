"""`provider-acks` and `uncorrelated-events` in, events that know their email on `delivery-events` out.

An event that names no email of ours itself is looked up by what its provider calls the message;
the ack of the send says which email that is. Whichever comes first waits in Postgres for the other.
One dispatcher at a time reads both topics; a row goes when what came of it is on the log, so that a
crash in between repeats an event, which changes nothing.

Events of other senders' mail through the same account are no mistake: they wait like any other,
and after a while they are dead letters that say so.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.dispatch.correlation.parked import SQL
from pipeline.dispatch.correlation.parse import UncorrelatedEvent, parse_records, with_email_id
from pipeline.dispatch.correlation.store import key_columns, write_and_match
from pipeline.runtime.append import append_until_confirmed
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka import create_consumer, discover_partitions
from pipeline.runtime.leader import ReaderOffsets, run_as_leader
from pipeline.runtime.ports import LogEntry
from topics.codec import decode
from topics.dead_letters import dead_letter
from topics.record import EmailId, LogPosition
from topics.registry import DAY_MS, DEAD_LETTERS, DELIVERY_EVENTS, PROVIDER_ACKS, UNCORRELATED_EVENTS

logger = logging.getLogger(__name__)

MAX_RECORDS_PER_POLL: Final = 2000
MAX_ROWS_PER_STATEMENT: Final = 1000
"""Rows told, given up or forgotten at once."""
CLEANUP_INTERVAL_MS: Final = 60_000
LOCK_NAME: Final = "mailfold.correlation"


async def run_correlation(rt: Runtime) -> None:
    """Read until ``rt.stop``, while no other dispatcher does."""
    await run_as_leader(rt, LOCK_NAME, lambda: Correlator(rt).run())


class Correlator:
    """The reader of both topics."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._acks = rt.settings.topic(PROVIDER_ACKS.name)
        self._positions = ReaderOffsets(rt, (PROVIDER_ACKS, UNCORRELATED_EVENTS), SQL)
        self._acks_until: dict[TopicPartition, int] = {}
        """How far the acks went when we came: before that is read, nobody waited in vain."""
        self._tidied_at = 0

    async def run(self) -> None:
        """Read for ever. Raises LeaseLost where another reader moved the offsets."""
        reader = create_consumer(self._rt.settings, fetch_max_wait_ms=500)
        await reader.start()
        try:
            await self._begin(reader)
            await self._tell_known()
            while True:
                batches = await reader.getmany(timeout_ms=500, max_records=MAX_RECORDS_PER_POLL)
                if batches:
                    await self._take(batches)
                if await self._acks_are_read(reader):
                    await self._tidy()
        finally:
            await reader.stop()

    async def _begin(self, reader: AIOKafkaConsumer) -> None:
        known = await self._positions.stored_offsets()
        places = await discover_partitions(reader, *self._positions.topics)
        reader.assign(places)
        unread = [place for place in places if place not in known]
        first = known | await self._beginnings(reader, unread)
        for place in places:
            self._positions.next_offsets[place] = first[place]
            reader.seek(place, first[place])
        await self._positions.add_partitions(unread)
        acks = [place for place in places if place.topic == self._acks]
        self._acks_until = dict(await reader.end_offsets(acks))

    async def _acks_are_read(self, reader: AIOKafkaConsumer) -> bool:
        for place, end in list(self._acks_until.items()):
            # The position also passes what has expired.
            if max(self._positions.next_offsets[place], await reader.position(place)) >= end:
                del self._acks_until[place]
        return not self._acks_until

    async def _beginnings(
        self, reader: AIOKafkaConsumer, places: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where to begin: acks as far back as ids are kept, for there may be 400 days of them; events all."""
        if not places:
            return {}
        first, ends = await reader.beginning_offsets(places), await reader.end_offsets(places)
        since = {place: self._keeps_since() for place in places if place.topic == self._acks}
        found = await reader.offsets_for_times(since) if since else {}
        recent = {place: ends[place] if at is None else at.offset for place, at in found.items()}
        return dict(first) | recent

    async def _take(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        learnt = parse_records(self._positions.topics, [record for records in batches.values() for record in records])
        if learnt.broken:
            letters = [self._positions.dead_letter_entry(record, why) for record, why in learnt.broken]
            await append_until_confirmed(self._rt.log, letters)
        waiting = await self._told_at_once(learnt.waiting)
        upto = {place: records[-1].offset + 1 for place, records in batches.items()}
        async with self._rt.pool.connection() as connection:
            matched = await write_and_match(connection, learnt, waiting)
            await self._positions.advance(connection, upto)
        self._positions.next_offsets |= upto
        if matched:
            await self._tell_known()

    async def _told_at_once(self, waiting: Sequence[UncorrelatedEvent]) -> list[UncorrelatedEvent]:
        """Append what is known already; what is left has to wait. Read again after a crash, it is told again."""
        if not waiting:
            return []
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["known"], key_columns(one.key for one in waiting))).fetchall()
        known = {(provider, message_id): EmailId(email_id) for message_id, provider, email_id in rows}
        told = [with_email_id(one.event, known[one.key]) for one in waiting if one.key in known]
        await append_until_confirmed(self._rt.log, [LogEntry(DELIVERY_EVENTS, event.email_id, event) for event in told])
        return [one for one in waiting if one.key not in known]

    async def _tell_known(self) -> None:
        """Append what became known, confirmed, before it is unparked."""
        while rows := await self._rows("to_tell", limit=MAX_ROWS_PER_STATEMENT):
            events = [with_email_id(decode(UNCORRELATED_EVENTS, row[3]), EmailId(row[2])) for row in rows]
            entries = [LogEntry(DELIVERY_EVENTS, event.email_id, event) for event in events]
            await append_until_confirmed(self._rt.log, entries)
            crash_point("correlate.before-unpark")
            await self._remove("unpark", rows)

    async def _tidy(self) -> None:
        """Now and then: what waited too long becomes dead letters, ids that nobody asks for any more go."""
        now = self._rt.clock()
        if now - self._tidied_at < CLEANUP_INTERVAL_MS:
            return
        before = now - int(self._rt.settings.parked_days * DAY_MS)
        while rows := await self._rows("expired", before=before, limit=MAX_ROWS_PER_STATEMENT):
            await append_until_confirmed(self._rt.log, [self._given_up(*row) for row in rows])
            await self._remove("give_up", rows)
            logger.info("%d events found no email of ours and went to the dead letters", len(rows))
        async with self._rt.pool.connection() as connection:
            values = {"before": self._keeps_since(), "limit": 10 * MAX_ROWS_PER_STATEMENT}
            forgotten = (await connection.execute(SQL["forget_ids"], values)).rowcount
        # Where there is more to forget, the next round comes at once.
        self._tidied_at = now if forgotten < 10 * MAX_ROWS_PER_STATEMENT else 0

    def _given_up(self, partition: int, place: int, message_id: str, event: bytes) -> LogEntry:
        source = LogPosition(topic=UNCORRELATED_EVENTS.name, partition=partition, offset=place)
        why = f"no email of ours in {self._rt.settings.parked_days:g} days"
        key, value = message_id.encode(), bytes(event)
        letter = dead_letter(source, self._rt.clock(), "uncorrelated", why, role="dispatch", key=key, value=value)
        return LogEntry(DEAD_LETTERS, None, letter)

    def _keeps_since(self) -> int:
        return self._rt.clock() - int(self._rt.settings.provider_id_days * DAY_MS)

    async def _rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        async with self._rt.pool.connection() as connection:
            return await (await connection.execute(SQL[query], values)).fetchall()

    async def _remove(self, query: str, rows: Sequence[tuple[Any, ...]]) -> None:
        values = {"partitions": [row[0] for row in rows], "places": [row[1] for row in rows]}
        async with self._rt.pool.connection() as connection:
            await connection.execute(SQL[query], values)
