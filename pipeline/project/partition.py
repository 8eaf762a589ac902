"""Projects one partition of `email-changes` into Postgres, batch by batch; `main` runs one for each partition."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.errors import LogTooShort, LogUnavailable, PermanentError
from pipeline.project.batch_joiner import BatchJoiner
from pipeline.project.metrics import ProjectMetrics
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import get_records
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.kafka.log_marks import describe_other_log, describe_short_log, find_lost_marks
from pipeline.runtime.kafka.reader_progress import ReaderProgress
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.observing.logs import bind_log_fields, get_logger
from pipeline.runtime.observing.tracing import batch_attributes, contexts_of, email_ids_of
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.sleep import sleep_unless
from projections.columns import is_storable_id
from projections.log_mark import last_mark
from projections.sink import ChangeBatch, Connection, OffsetConflict, Sink
from topics.changes import EmailChange, Tick
from topics.codec import NewerRecord, Undecodable, decode
from topics.dead_letters import DeadLetter
from topics.record import EmailId
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES

log = get_logger(__name__)

TRANSACTION_MAX_RECORDS: Final = 1000
"""Records in one transaction, at most; a transaction never waits for more than one."""

MAX_UNDECODABLE_RECORDS: Final = 20
MAX_UNDECODABLE_SHARE: Final = 0.2
"""Undecodable records allowed in a batch, whichever limit is larger: more of them point to a bug in this program."""

UNSTORABLE_ERRORS: Final = (psycopg.DataError, psycopg.IntegrityError)

T = TypeVar("T")
ApplyBatch = Callable[[ChangeBatch], Awaitable[None]]
DecodedChange = tuple[Any, EmailChange | Tick]
"""A record and the change decoded from it."""
BuryRecords = Callable[[Sequence[tuple[Any, str]]], Awaitable[None]]
"""A function that puts records into the dead letters, each with its error."""


class TooManyUndecodable(PermanentError):
    """A batch has so many undecodable records that this program must be wrong; it is retried."""


class OutageBackoff:
    """Growing pauses while a service is unavailable; logs the outage once and its end once."""

    def __init__(self, stop: asyncio.Event, service: str) -> None:
        self._stop, self._service, self._failures = stop, service, 0

    async def wait_after_failure(self, error: Exception) -> None:
        """Wait longer than the last time, up to 5 seconds, or until the stop event."""
        if not self._failures:
            log.error(f"{self._service} unavailable, retrying", error=type(error).__name__)
        pause = min(5.0, 0.1 * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        await sleep_unless(self._stop, pause)

    def reset(self) -> None:
        """End the outage after a successful call."""
        if self._failures:
            log.warning(f"{self._service} available again")
        self._failures = 0


@dataclass
class PartitionProjector:
    """Reads one partition in order and writes it into Postgres."""

    rt: Runtime
    reader: AIOKafkaConsumer
    sink: Sink
    joiner: BatchJoiner
    backoff: OutageBackoff
    partition: TopicPartition
    projected: dict[TopicPartition, int]
    """Projected offsets by partition, to be committed to the consumer group."""
    metrics: ProjectMetrics
    progress: ReaderProgress
    skipped: SkippedRecords
    next_offset: int = 0
    catch_up_end: int | None = None
    """Offset up to which it must have projected before it has caught up; None before it is known."""
    halted: str = ""
    """Why the partition is not projected, although Kafka and Postgres answer; empty if it is."""

    @property
    def is_catching_up(self) -> bool:
        """Return whether records are missing that were on the log when this process got the partition."""
        return self.catch_up_end is None or self.next_offset < self.catch_up_end

    async def run(self) -> None:
        """Read and write until stopped; after an offset conflict start again at the offset in Postgres."""
        bind_log_fields(partition=self.partition.partition)
        while not self.rt.stop.is_set():
            try:
                await self._start()
                while not self.rt.stop.is_set():
                    await self._project_next()
            except OffsetConflict as conflict:
                log.warning("offset conflict, restarting from the offset in Postgres", conflict=str(conflict))
            except (TooManyUndecodable, LogTooShort, NewerRecord) as error:
                log.critical(
                    "projection halted",
                    partition=self.partition.partition,
                    offset=self.next_offset,
                    error=str(error),
                )
                self._set_halted(str(error))
                if isinstance(error, LogTooShort):
                    self.progress.note_lost(self.partition, str(error))
                await self._pause(30)
            except LogUnavailable as error:
                log.warning(
                    "Kafka unavailable, retrying",
                    partition=self.partition.partition,
                    offset=self.next_offset,
                    error=str(error),
                )
                await self._pause(1)

    async def _start(self) -> None:
        beginning = (await self.reader.beginning_offsets([self.partition]))[self.partition]
        end = (await self.reader.end_offsets([self.partition]))[self.partition]
        number = self.partition.partition
        count = len(self.reader.partitions_for_topic(self.partition.topic) or ())
        self.next_offset = await self._query(lambda database: self.sink.start(database, number, beginning, end, count))
        if self.catch_up_end is None:
            self.catch_up_end = end
        await self._require_same_log(end)
        if self.next_offset < beginning:
            log.critical("changes expired unread", partition=number, first=self.next_offset, next=beginning)
        self.reader.seek(self.partition, max(self.next_offset, beginning))
        if self.next_offset == end:
            self._set_halted("")
        # The partition's last owner may have died between its commit to Postgres and its commit to the group.
        self.projected[self.partition] = self.next_offset
        log.info("projecting partition", partition=number, offset=self.next_offset, end=end)

    async def _require_same_log(self, end: int) -> None:
        """Raise LogTooShort unless the log has what was projected from it, as far as that has not expired."""
        if self.next_offset > end:
            raise LogTooShort(describe_short_log(self.partition, self.next_offset, end))
        mark = await self._query(lambda database: self.sink.read_mark(database, self.partition.partition))
        if mark is not None and await find_lost_marks(self.reader, {self.partition: mark}):
            raise LogTooShort(describe_other_log(self.partition, mark))

    async def _project_next(self) -> None:
        limits = {"timeout_ms": 1000, "max_records": TRANSACTION_MAX_RECORDS}
        fetched = await get_records(self.reader, self.partition, **limits)
        records = fetched.get(self.partition, [])
        # The position, not the last record's offset + 1: transaction markers take offsets, too.
        position = await self.reader.position(self.partition)
        if position < self.next_offset:
            # The offset to read next is not on the log any more, and the consumer went to the beginning.
            raise LogTooShort(describe_short_log(self.partition, self.next_offset, position))
        if position > self.next_offset:
            self.progress.add_fetched(self.partition, records)
            await self._write(records, position)
            self.next_offset = position
            self.projected[self.partition] = position
            self.progress.finish([self.partition])
            self._set_halted("")

    async def _write(self, records: Sequence[Any], until: int) -> None:
        traced = self.rt.tracer.traced_keys(records)
        email_ids = email_ids_of(traced)
        attributes = batch_attributes(EMAIL_CHANGES.name, email_ids)
        with self.rt.tracer.span("project", "consumer", contexts_of(traced), attributes) as span:
            await self._write_traced(records, until, dict.fromkeys(email_ids, span.traceparent))

    async def _write_traced(self, records: Sequence[Any], until: int, traces: Mapping[EmailId, str]) -> None:
        async def apply(batch: ChangeBatch) -> None:
            if traces:
                batch = msgspec.structs.replace(batch, traces=traces)
            await self._retry(lambda: self.joiner.write(batch))
            now = self.rt.clock()
            for change in batch.changes:
                if isinstance(change, EmailChange):
                    self.metrics.observe_change(change, now)

        async def write(readable: Sequence[Any]) -> None:
            fetched = FetchedRecords(self.partition.partition, self.next_offset, until, readable)
            await write_records(fetched, apply, self._bury)

        await self.skipped.pass_over(records, write)

    async def _bury(self, broken: Sequence[tuple[Any, str]]) -> None:
        """Append dead letters for records that can't be projected, and wait until the log has confirmed them."""
        log.error("changes not projected, now dead letters", partition=self.partition.partition, records=len(broken))
        now = self.rt.clock()
        await append_all(self.rt.log, [LogEntry(DEAD_LETTERS, None, unprojectable(*each, now)) for each in broken])

    async def _query(self, call: Callable[[Connection], Awaitable[T]]) -> T:
        """Call with a connection until Postgres answers."""

        async def run() -> T:
            async with self.rt.pool.connection() as database:
                return await call(database)

        return await self._retry(run)

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until Postgres answers.

        A call that was committed although its answer was lost raises OffsetConflict when it is repeated.
        """
        while True:
            try:
                result = await call()
            except psycopg.errors.DeadlockDetected:
                log.info("deadlock detected, retrying", partition=self.partition.partition)
            except DATABASE_UNAVAILABLE_ERRORS as error:
                await self.backoff.wait_after_failure(error)
                if self.rt.stop.is_set():
                    raise asyncio.CancelledError from error
            else:
                self.backoff.reset()
                return result

    def _set_halted(self, reason: str) -> None:
        """Show in metrics, `/readyz` and `mailfold status` why the partition is halted, or that it is not."""
        if reason != self.halted:
            self.halted = reason
            # Committed with the offset, so that another process can read it.
            self.projected[self.partition] = self.next_offset
        if not reason:
            self.progress.clear_lost(self.partition)
        self.metrics.halted.labels(str(self.partition.partition)).set(bool(reason))

    async def _pause(self, seconds: float) -> None:
        await sleep_unless(self.rt.stop, seconds)


class FetchedRecords(NamedTuple):
    """Records of one partition and the half-open range of offsets [first, until) that they cover."""

    partition: int
    first: int
    until: int
    records: Sequence[Any]


async def write_records(fetched: FetchedRecords, apply: ApplyBatch, bury: BuryRecords) -> None:
    """Apply all records that can be decoded and stored; bury the others one by one. Raises TooManyUndecodable."""
    decoded, broken = decode_changes(fetched.records)
    if broken:
        await bury(broken)
    await _store(fetched, decoded, apply, bury)


async def _store(
    fetched: FetchedRecords, decoded: Sequence[DecodedChange], apply: ApplyBatch, bury: BuryRecords
) -> None:
    """Apply the changes; where Postgres can't store one, halve the batch until that record is alone, and bury it."""
    partition, first, until, records = fetched
    mark = last_mark(records, until)
    try:
        await apply(ChangeBatch(partition, first, until, [change for _, change in decoded], mark))
    except UNSTORABLE_ERRORS as error:
        if len(decoded) == 1:
            await bury([(decoded[0][0], f"not storable: {type(error).__name__}")])
            await apply(ChangeBatch(partition, first, until, last_record=mark))
            return
        half = len(decoded) // 2
        middle = decoded[half][0].offset
        await _store(fetched._replace(until=middle), decoded[:half], apply, bury)
        await _store(fetched._replace(first=middle), decoded[half:], apply, bury)


def decode_changes(records: Sequence[Any]) -> tuple[list[DecodedChange], list[tuple[Any, str]]]:
    """Return the decoded changes, and the other records with their errors.

    Raises TooManyUndecodable, and NewerRecord for a version that only a newer projector knows.
    """
    decoded: list[DecodedChange] = []
    broken: list[tuple[Any, str]] = []
    for record in records:
        try:
            change = decode(EMAIL_CHANGES, record.value)
            if isinstance(change, EmailChange) and not _names_one_email(change):
                raise Undecodable("email-changes: email_id is not one UUID in canonical form")
            decoded.append((record, change))
        except Undecodable as error:
            broken.append((record, str(error)))
        except NewerRecord as error:
            raise error.at(ConsumedRecord.of(EMAIL_CHANGES, record.partition, record).place) from None
    if len(broken) > max(MAX_UNDECODABLE_RECORDS, MAX_UNDECODABLE_SHARE * len(records)):
        raise TooManyUndecodable(f"{len(broken)} of {len(records)} records, first: {broken[0][1]}")
    return decoded, broken


def _names_one_email(change: EmailChange) -> bool:
    return is_storable_id(change.email_id) and change.state.email_id == change.email_id


def unprojectable(record: Any, error: str, now: int) -> DeadLetter:
    """Return the dead letter of a record that can't be projected."""
    return ConsumedRecord.of(EMAIL_CHANGES, record.partition, record).dead_letter(
        now, "undecodable", error, role="project"
    )
