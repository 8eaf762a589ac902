"""One partition of `email-changes` in, run by run, its rows in Postgres out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.errors import LogUnavailable, PermanentError
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.kafka import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.sleep import sleep_unless
from projections.columns import is_storable_id
from projections.sink import ChangeBatch, Connection, OffsetConflict, Sink
from topics.changes import EmailChange, Tick
from topics.codec import Undecodable, decode
from topics.dead_letters import DeadLetter
from topics.registry import DEAD_LETTERS, EMAIL_CHANGES

log = logging.getLogger(__name__)

TRANSACTION_MAX_RECORDS: Final = 1000
"""Records in one transaction, at most; whatever has come meanwhile, at least one."""

MAX_UNDECODABLE_RECORDS: Final = 20
MAX_UNDECODABLE_SHARE: Final = 0.2
"""Records of a run that may be undecodable, whichever is more: beyond, it's not they who are wrong."""

DATABASE_CONNECTION_ERRORS: Final = (*DATABASE_UNAVAILABLE_ERRORS, psycopg.InterfaceError)
UNSTORABLE_ERRORS: Final = (psycopg.DataError, psycopg.IntegrityError)

T = TypeVar("T")
ApplyBatch = Callable[[ChangeBatch], Awaitable[None]]
DecodedChange = tuple[Any, EmailChange | Tick]
"""A record and the change it is."""
BuryRecords = Callable[[Sequence[tuple[Any, str]]], Awaitable[None]]


class TooManyUndecodable(PermanentError):
    """So many records can't be read that this program must be wrong, not they; the partition waits."""


class LogTooShort(PermanentError):
    """The log ends before what was projected from it: another cluster, or a topic made anew."""


class OutageBackoff:
    """Waits with growing pauses for something that went away; says so once, and once when it's back."""

    def __init__(self, stop: asyncio.Event, what: str) -> None:
        self._stop, self._what, self._losses = stop, what, 0

    async def wait_after_failure(self, error: Exception) -> None:
        """Wait a little longer than the last time, or until it's time to stop."""
        if not self._losses:
            log.error("%s went away (%s); waiting for it", self._what, type(error).__name__)
        pause = min(5.0, 0.1 * 2**self._losses)
        self._losses = min(self._losses + 1, 10)
        await sleep_unless(self._stop, pause)

    def reset(self) -> None:
        """It answers."""
        if self._losses:
            log.warning("%s is back", self._what)
        self._losses = 0


@dataclass
class PartitionProjector:
    """One partition, read in order."""

    rt: Runtime
    reader: AIOKafkaConsumer
    sink: Sink
    patience: OutageBackoff
    partition: TopicPartition
    projected: dict[TopicPartition, int]
    """What Postgres has, for the group to be told."""
    next_offset: int = 0

    async def run(self) -> None:
        """Read and write until stopped; begin again where Postgres says whenever that isn't what we thought."""
        while not self.rt.stop.is_set():
            try:
                await self._begin()
                while not self.rt.stop.is_set():
                    await self._go_on()
            except OffsetConflict as moved:
                log.warning("%s; reading on where it is", moved)
            except (TooManyUndecodable, LogTooShort) as error:
                log.critical(
                    "email-changes/%s stands still at %s: %s", self.partition.partition, self.next_offset, error
                )
                await self._pause(30)
            except LogUnavailable as error:
                log.warning("email-changes/%s waits at %s: %s", self.partition.partition, self.next_offset, error)
                await self._pause(1)

    async def _begin(self) -> None:
        beginning = (await self.reader.beginning_offsets([self.partition]))[self.partition]
        end = (await self.reader.end_offsets([self.partition]))[self.partition]
        number = self.partition.partition
        count = len(self.reader.partitions_for_topic(self.partition.topic) or ())
        self.next_offset = await self._insist(lambda database: self.sink.start(database, number, beginning, end, count))
        if self.next_offset > end:
            raise LogTooShort(f"{LogTooShort.__doc__} (projected to {self.next_offset}, the log's end is {end})")
        if self.next_offset < beginning:
            log.critical("email-changes/%s: %s to %s expired unread", number, self.next_offset, beginning)
        self.reader.seek(self.partition, max(self.next_offset, beginning))
        # Whoever was here before may have died between telling Postgres and telling the group.
        self.projected[self.partition] = self.next_offset
        log.info("projecting email-changes/%s from %s to %s and on", number, self.next_offset, end)

    async def _go_on(self) -> None:
        fetched = await self.reader.getmany(self.partition, timeout_ms=250, max_records=TRANSACTION_MAX_RECORDS)
        records = fetched.get(self.partition, [])
        # The position, not the last record's offset + 1: transaction markers take offsets, too.
        position = await self.reader.position(self.partition)
        if position > self.next_offset:
            await self._write(records, position)
            self.next_offset = position
            self.projected[self.partition] = position

    async def _write(self, records: Sequence[Any], until: int) -> None:
        async def apply(run: ChangeBatch) -> None:
            await self._insist(lambda database: self.sink.apply(database, run))

        await write_records(
            FetchedRecords(self.partition.partition, self.next_offset, until, records), apply, self._bury
        )

    async def _bury(self, broken: Sequence[tuple[Any, str]]) -> None:
        """Keep what can't be read in the dead letters, confirmed, before the offset passes it."""
        log.error("email-changes/%s: %s dead letters", self.partition.partition, len(broken))
        now = self.rt.clock()
        await append_all(self.rt.log, [LogEntry(DEAD_LETTERS, None, unprojectable(*each, now)) for each in broken])

    async def _insist(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        """Ask Postgres until it answers. What may or may not have been committed shows as Moved."""
        while True:
            try:
                async with self.rt.pool.connection() as database:
                    answer = await ask(database)
            except psycopg.errors.DeadlockDetected:
                log.info("email-changes/%s: two transactions waited for each other; again", self.partition.partition)
            except DATABASE_CONNECTION_ERRORS as error:
                await self.patience.wait_after_failure(error)
                if self.rt.stop.is_set():
                    raise asyncio.CancelledError from error
            else:
                self.patience.reset()
                return answer

    async def _pause(self, seconds: float) -> None:
        await sleep_unless(self.rt.stop, seconds)


class FetchedRecords(NamedTuple):
    """Records of one partition, and the offsets from where to where they reach."""

    partition: int
    first: int
    until: int
    records: Sequence[Any]


async def write_records(stretch: FetchedRecords, apply: ApplyBatch, bury: BuryRecords) -> None:
    """Apply all that can be read and stored; what can't be is buried, each record alone. Raises TooManyUndecodable."""
    readable, broken = decode_changes(stretch.records)
    if broken:
        await bury(broken)
    await _store(stretch, readable, apply, bury)


async def _store(
    stretch: FetchedRecords, readable: Sequence[DecodedChange], apply: ApplyBatch, bury: BuryRecords
) -> None:
    """Where Postgres can't hold something, halve until what it can't hold stands alone."""
    partition, first, until, _ = stretch
    try:
        await apply(ChangeBatch(partition, first, until, [change for _, change in readable]))
    except UNSTORABLE_ERRORS as error:
        if len(readable) == 1:
            await bury([(readable[0][0], f"not storable: {type(error).__name__}")])
            await apply(ChangeBatch(partition, first, until))
            return
        half = len(readable) // 2
        middle = readable[half][0].offset
        await _store(stretch._replace(until=middle), readable[:half], apply, bury)
        await _store(stretch._replace(first=middle), readable[half:], apply, bury)


def decode_changes(records: Sequence[Any]) -> tuple[list[DecodedChange], list[tuple[Any, str]]]:
    """The changes, and the records that are none, each with the reason. Raises TooManyUndecodable."""
    readable: list[DecodedChange] = []
    broken: list[tuple[Any, str]] = []
    for record in records:
        try:
            change = decode(EMAIL_CHANGES, record.value)
            if isinstance(change, EmailChange) and not _names_one_email(change):
                raise Undecodable("email-changes: email_id is not one UUID in canonical form")
            readable.append((record, change))
        except Undecodable as error:
            broken.append((record, str(error)))
    if len(broken) > max(MAX_UNDECODABLE_RECORDS, MAX_UNDECODABLE_SHARE * len(records)):
        raise TooManyUndecodable(f"{len(broken)} of {len(records)} records, first: {broken[0][1]}")
    return readable, broken


def _names_one_email(change: EmailChange) -> bool:
    return is_storable_id(change.email_id) and change.state.email_id == change.email_id


def unprojectable(record: Any, error: str, now: int) -> DeadLetter:
    """Return the dead letter of a record that can't be projected."""
    return ConsumedRecord.of(EMAIL_CHANGES, record.partition, record).dead_letter(
        now, "undecodable", error, role="project"
    )
