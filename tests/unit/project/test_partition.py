"""What a lane does with records that can't be read or stored."""

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from aiokafka import TopicPartition

from pipeline.errors import LogTooShort
from pipeline.project.partition import (
    FetchedRecords,
    PartitionProjector,
    TooManyUndecodable,
    decode_changes,
    write_records,
)
from projections.sink import ChangeBatch
from tests.support.changes import lives
from topics.codec import NewerRecord, encode
from topics.registry import EMAIL_CHANGES


class Record:
    """As aiokafka hands them over."""

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset, self.value = offset, value
        self.partition, self.key, self.timestamp = 3, b"", 0


def records(count: int) -> list[Record]:
    return [Record(nth, encode(EMAIL_CHANGES, change)) for nth, change in enumerate(lives(1, 40).changes[:count])]


class Database:
    """Takes runs as Postgres would: whole or not at all, and not those with a change it can't hold."""

    def __init__(self, *unstorable: int) -> None:
        changes = lives(1, 40).changes
        self._unstorable = [changes[nth] for nth in unstorable]
        self.applied: list[ChangeBatch] = []
        self.buried: list[int] = []

    async def apply(self, run: ChangeBatch) -> None:
        if any(change is bad or change == bad for change in run.changes for bad in self._unstorable):
            raise psycopg.DataError
        self.applied.append(run)

    async def bury(self, broken: Any) -> None:
        self.buried += [record.offset for record, _ in broken]


async def test_unstorable_record_is_buried_alone() -> None:
    unlike = [nth for nth, change in enumerate(lives(1, 40).changes[:64]) if lives(1, 40).changes.count(change) == 1]
    first, second = unlike[5], unlike[20]
    database = Database(first, second)
    await write_records(FetchedRecords(3, 0, 70, records(64)), database.apply, database.bury)
    assert database.buried == [first, second]
    reached = 0
    for run in database.applied:
        assert (run.partition, run.first_offset) == (3, reached), "runs follow each other without a gap"
        reached = run.next_offset
    assert reached == 70
    assert sum(len(run.changes) for run in database.applied) == 62


async def test_undecodable_record_is_buried_before_its_offset_is_passed() -> None:
    database = Database()
    mixed: list[Record] = [*records(30), Record(30, b"{"), Record(31, b'{"type":"love-letter/1"}')]
    await write_records(FetchedRecords(0, 0, 32, mixed), database.apply, database.bury)
    assert database.buried == [30, 31]
    assert [len(run.changes) for run in database.applied] == [30]


async def test_record_is_buried_once_while_its_batch_is_halved() -> None:
    unlike = next(
        nth for nth, change in enumerate(lives(1, 40).changes[:30]) if lives(1, 40).changes.count(change) == 1
    )
    database = Database(unlike)
    await write_records(FetchedRecords(0, 0, 31, [*records(30), Record(30, b"{")]), database.apply, database.bury)
    assert sorted(database.buried) == sorted([unlike, 30])


async def test_newer_version_halts_the_projection_and_nothing_of_the_batch_is_written() -> None:
    database = Database()
    newer = records(1)[0].value.replace(b"email-state/1", b"email-state/2")
    fetched = FetchedRecords(3, 0, 31, [*records(30), Record(30, newer)])
    with pytest.raises(NewerRecord, match=r"^email-changes/3/30: email-state/2 is newer"):
        await write_records(fetched, database.apply, database.bury)
    assert (database.buried, database.applied) == ([], [])


async def test_mostly_undecodable_batch_raises_and_writes_nothing() -> None:
    database = Database()
    with pytest.raises(TooManyUndecodable, match="21 of 61"):
        await write_records(
            FetchedRecords(0, 0, 61, [*records(40), *(Record(40 + nth, b"") for nth in range(21))]),
            database.apply,
            database.bury,
        )
    assert (database.buried, database.applied) == ([], [])


async def test_reader_that_was_sent_back_to_the_beginning_halts_the_projection() -> None:
    """The topic was made anew while the projector ran: what it reads there is not what follows."""
    place = TopicPartition("email-changes", 3)

    class Reader:
        _fetcher = SimpleNamespace(_fetch_task=SimpleNamespace(done=lambda: False))

        async def getmany(self, *_: Any, **__: Any) -> dict[TopicPartition, list[Record]]:
            return {place: records(5)}

        async def position(self, _: TopicPartition) -> int:
            return 5

    parts: Any = (SimpleNamespace(), Reader(), None, None, None, place, {}, None, None, None)
    projector = PartitionProjector(*parts)
    projector.next_offset = 20
    with pytest.raises(LogTooShort, match="was read up to offset 20, but ends at 5"):
        await projector._project_next()


def test_unstorable_email_id_is_undecodable() -> None:
    import msgspec

    change = lives(1, 5).changes[0]
    for wrong in ("", "not-a-uuid", change.email_id.upper(), change.email_id.replace("-", "")):
        state = msgspec.structs.replace(change.state, email_id=wrong)
        odd = msgspec.structs.replace(change, email_id=wrong, state=state)
        assert len(decode_changes([Record(0, encode(EMAIL_CHANGES, odd))])[1]) == 1
