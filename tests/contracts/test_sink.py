"""The contract of the sink on a real Postgres: splits, replays, fenced projectors and pending conversions."""

import asyncio
import random

import msgspec
import psycopg
import pytest

from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from projections.pending_conversions import PendingConversion, decode_conversion
from projections.row_changes import MAX_PLACES
from projections.sink import ChangeBatch, Connection, OffsetConflict, Sink
from tests.conftest import RING
from tests.support.changes import T0, Log, acked, again, conversion_result, event, identified, lives, request
from tests.support.tables import empty, tables
from topics.changes import EmailChange
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import BounceClass, EventKind

SIGNER = AddressHasher(RING)


def hashed(address: str) -> bytes:
    return hash_address(SIGNER, address)


@pytest.fixture
def sink() -> Sink:
    return Sink(hashed)


async def project(connection: Connection, sink: Sink, runs: list[ChangeBatch], *, end: int = 0) -> None:
    await sink.start(connection, runs[0].partition, 0, end)
    for run in runs:
        await sink.apply(connection, run)


@pytest.mark.parametrize("seed", range(6))
async def test_any_split_of_log_into_batches_gives_same_tables(connection: Connection, sink: Sink, seed: int) -> None:
    log = lives(seed, 25)
    await project(connection, sink, log.runs())
    at_once = await tables(connection)
    assert at_once["versions"]
    assert at_once["jobs"]
    chance = random.Random(seed)
    for _ in range(3):
        await empty(connection)
        await project(connection, sink, log.runs(*sorted(chance.sample(range(1, len(log.changes)), 12))))
        assert await tables(connection) == at_once
    await empty(connection)
    await project(connection, sink, log.runs(*range(1, len(log.changes))))
    assert await tables(connection) == at_once


@pytest.mark.parametrize("seed", range(3))
async def test_replay_from_earlier_offset_changes_only_offset(connection: Connection, sink: Sink, seed: int) -> None:
    log = lives(seed, 25)
    await project(connection, sink, log.runs())
    grown = await tables(connection)
    await connection.execute("update projections.next_offsets set next_offset = 7")
    await sink.apply(connection, ChangeBatch(0, 7, len(log.changes), log.changes[7:]))
    assert await tables(connection) == grown


async def test_projector_with_other_offset_writes_nothing(connection: Connection, sink: Sink) -> None:
    log = lives(1, 10)
    first, second, third = log.runs(5, 12)
    await project(connection, sink, [first, second])
    before = await tables(connection)
    for stale in (first, second, ChangeBatch(0, 20, 30, log.changes[20:]), ChangeBatch(1, 0, 3, log.changes[:3])):
        with pytest.raises(OffsetConflict):
            await sink.apply(connection, stale)
        assert await tables(connection) == before
    await sink.apply(connection, third)
    assert await tables(connection) != before


@pytest.mark.parametrize("seed", range(3))
async def test_batches_of_two_partitions_may_share_transaction(connection: Connection, sink: Sink, seed: int) -> None:
    changes = lives(seed, 25).changes
    email_ids = sorted({change.email_id for change in changes})
    first, second = (
        [
            ChangeBatch(number, start, min(start + 9, len(part)), part[start : start + 9])
            for part in [[change for change in changes if email_ids.index(change.email_id) % 2 == number]]
            for start in range(0, len(part), 9)
        ]
        for number in (0, 1)
    )

    async def start() -> None:
        await empty(connection)
        for number in (0, 1):
            await sink.start(connection, number, 0, (20, 1_000)[number])  # one is released, the other stays held

    await start()
    for run in (*first, *second):
        await sink.apply(connection, run)
    one_by_one = await tables(connection)
    assert {"held", "pending"} <= {state for _, _, state in await jobs(connection)}
    await start()
    for runs in zip(first, second, strict=False):
        await sink.apply(connection, *runs)
    for run in (*first[len(second) :], *second[len(first) :]):
        await sink.apply(connection, run)
    assert await tables(connection) == one_by_one


async def test_conflict_of_one_partition_keeps_the_other_from_being_written(connection: Connection, sink: Sink) -> None:
    log = lives(1, 10)
    await project(connection, sink, log.runs(5)[:1])
    before = await tables(connection)
    other = Log(1).fold(request(77))
    with pytest.raises(OffsetConflict, match="partition 1: expected 0, found None"):
        await sink.apply(connection, log.runs(5)[1], ChangeBatch(1, 0, 1, other.changes))
    assert await tables(connection) == before


async def test_crash_between_rows_and_offset_writes_neither(connection: Connection) -> None:
    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == "project.between-rows-and-offset":
            raise Died

    log = lives(2, 10)
    await Sink(hashed).start(connection, 0, 0, 0)
    before = await tables(connection)
    with pytest.raises(Died):
        await Sink(hashed, die).apply(connection, log.runs()[0])
    assert await tables(connection) == before


async def jobs(connection: Connection) -> list[tuple[str, int, str]]:
    cursor = await connection.execute(
        "select name, seq, state from jobs.jobs where queue = 'emit' order by stream, seq"
    )
    return await cursor.fetchall()


async def test_conversions_are_numbered_in_order_of_first_appearance(connection: Connection, sink: Sink) -> None:
    log = Log()
    log.fold(request(1)).fold(event(1, EventKind.OPENED, T0 + 5)).fold(event(1, EventKind.DELIVERED, T0 + 3))
    log.fold(event(1, EventKind.COMPLAINED, T0 + 9), event(1, EventKind.CLICKED, T0 + 8))
    await project(connection, sink, log.runs(1, 2))
    assert await jobs(connection) == [
        ("open", 1, "pending"),
        ("delivered", 2, "pending"),
        ("click", 3, "pending"),
        ("spam", 4, "pending"),
    ]
    row = await (await connection.execute("select payload, lane from jobs.jobs where seq = 1")).fetchone()
    assert row is not None
    assert row[1] == "acme/2"
    assert decode_conversion(row[0]) == PendingConversion(
        email_id=identified(1), word=ConversionWord.OPEN, tenant="acme", brand="2", activity=request(1).activity
    )


async def test_only_fast_track_emails_have_conversions(connection: Connection, sink: Sink) -> None:
    log = Log().fold(request(1, dialect="email_v1")).fold(event(1, EventKind.DELIVERED, T0))
    await project(connection, sink, log.runs())
    assert await jobs(connection) == []


async def test_conversions_are_created_once_request_is_known(connection: Connection, sink: Sink) -> None:
    log = Log().fold(event(1, EventKind.OPENED, T0 + 5), event(1, EventKind.DELIVERED, T0 + 3))
    await project(connection, sink, log.runs())
    assert await jobs(connection) == []
    log.fold(request(1))
    await sink.apply(connection, log.runs(1)[1])
    assert await jobs(connection) == [("delivered", 1, "pending"), ("open", 2, "pending")]


async def test_settled_conversion_closes_job_and_replayed_dead_one_stays_open(
    connection: Connection, sink: Sink
) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0), event(1, EventKind.OPENED, T0))
    log.fold(event(1, EventKind.CLICKED, T0))
    log.fold(
        conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0),
        conversion_result(1, ConversionWord.OPEN, ConversionOutcome.REFUSED, T0),
    )
    log.fold(conversion_result(1, ConversionWord.CLICK, ConversionOutcome.GIVEN_UP, T0))
    await sink.start(connection, 0, 0, 0)
    await sink.apply(connection, ChangeBatch(0, 0, 4, log.changes[:4]))
    await connection.execute("update jobs.jobs set state = 'attempting' where name = 'click'")
    await sink.apply(connection, ChangeBatch(0, 4, 5, log.changes[4:]))
    assert await jobs(connection) == [("delivered", 1, "done"), ("open", 2, "done"), ("click", 3, "dead")]
    await connection.execute("update jobs.jobs set state = 'pending', replayed_after = 1 where name = 'click'")
    log.fold(event(1, EventKind.CLICKED, T0, nth=1))
    await sink.apply(connection, ChangeBatch(0, 5, 6, log.changes[5:]))
    assert (await jobs(connection))[2] == ("click", 3, "pending")
    log.fold(conversion_result(1, ConversionWord.CLICK, ConversionOutcome.DELIVERED, T0))
    await sink.apply(connection, ChangeBatch(0, 6, 7, log.changes[6:]))
    assert (await jobs(connection))[2] == ("click", 3, "done")


async def test_lagging_projector_does_not_bury_replayed_job(connection: Connection, sink: Sink) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    log.fold(conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.GIVEN_UP, T0))
    await project(connection, sink, log.runs(2)[:1])
    await connection.execute("update jobs.jobs set state = 'pending', replayed_after = 12")
    await sink.apply(connection, log.runs(2)[1])
    assert await jobs(connection) == [("delivered", 1, "pending")]


async def test_job_being_settled_by_emitter_is_unchanged(connection: Connection, sink: Sink, database_url: str) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0))
    log.fold(conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0))
    await project(connection, sink, log.runs(2)[:1])
    async with await psycopg.AsyncConnection.connect(database_url) as emitter:
        await emitter.execute("update jobs.jobs set state = 'done'")
        async with asyncio.timeout(10):
            await sink.apply(connection, log.runs(2)[1])
    assert await jobs(connection) == [("delivered", 1, "done")]


async def test_rebuilt_database_has_only_unsettled_conversions(connection: Connection, sink: Sink) -> None:
    log = Log().fold(request(1)).fold(event(1, EventKind.DELIVERED, T0), event(1, EventKind.OPENED, T0))
    log.fold(conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0))
    other = Log(1).fold(request(2)).fold(event(2, EventKind.DELIVERED, T0)).fold(acked(2, T0))
    await sink.start(connection, 0, 0, 3)
    await sink.start(connection, 1, 0, 3)
    await sink.apply(connection, ChangeBatch(0, 0, 2, log.changes[:2]))
    await sink.apply(connection, ChangeBatch(1, 0, 2, other.changes[:2]))
    assert {state for _, _, state in await jobs(connection)} == {"held"}
    await sink.apply(connection, ChangeBatch(0, 2, 3, log.changes[2:]))
    rows = {(name, stream): state for name, stream, state in await _jobs_by_stream(connection)}
    assert rows == {
        ("delivered", identified(1)): "done",
        ("open", identified(1)): "pending",
        ("delivered", identified(2)): "held",
    }, "the other partition hasn't reached its end yet"
    await sink.apply(connection, ChangeBatch(1, 2, 3, other.changes[2:]))
    assert ("delivered", identified(2), "pending") in await _jobs_by_stream(connection)


async def _jobs_by_stream(connection: Connection) -> list[tuple[str, str, str]]:
    return await (await connection.execute("select name, stream::text, state from jobs.jobs")).fetchall()


async def test_existing_jobs_are_not_created_again_after_rebuild(connection: Connection, sink: Sink) -> None:
    log = lives(3, 20)
    await project(connection, sink, log.runs())
    await connection.execute("update jobs.jobs set state = 'done', payload = ''")
    booked = (await tables(connection, "jobs"))["jobs"]
    await connection.execute(
        "truncate projections.history, projections.versions, projections.timeline, projections.next_offsets"
    )
    await project(connection, sink, log.runs(), end=len(log.changes))
    assert (await tables(connection, "jobs"))["jobs"] == booked


async def test_address_evidence_of_two_partitions_is_independent_of_order(connection: Connection, sink: Sink) -> None:
    first = Log(0).fold(request(1), event(1, EventKind.BOUNCED, T0 + 50))
    second = Log(1).fold(request(3), event(3, EventKind.COMPLAINED, T0 + 20))
    clash = second.changes[0].state
    assert clash.request is not None
    same = clash.request.recipient
    rows = []
    for order in ((first, second), (second, first)):
        await empty(connection)
        for log in order:
            changed = [_readdressed(change, same) for change in log.changes]
            await project(connection, sink, [ChangeBatch(log.partition, 0, 1, changed)])
        rows.append((await tables(connection, "evidence"))["evidence"])
    assert rows[0] == rows[1]
    assert {row[:3] for row in rows[0]} == {("acme", "2", hashed(f" {same.upper()}"))}
    assert {(reason, event_id, at) for *_, reason, event_id, at in rows[0]} == {
        ("hard bounce", "sg:1:bounced:0", T0 + 52),
        ("complaint", "sg:3:complained:0", T0 + 22),
    }


async def test_evidence_withdrawn_by_state_is_removed(connection: Connection, sink: Sink) -> None:
    """A hard bounce that arrives after a soft one replaces it."""
    soft = msgspec.structs.replace(event(1, EventKind.BOUNCED, T0 + 10, nth=1), bounce_class=BounceClass.SOFT)
    log = Log().fold(request(1), soft)
    await project(connection, sink, log.runs())
    assert [row[4] for row in (await tables(connection, "evidence"))["evidence"]] == ["soft bounce"]
    log.fold(event(1, EventKind.BOUNCED, T0 + 20))
    await sink.apply(connection, log.runs(1)[1])
    assert [row[4] for row in (await tables(connection, "evidence"))["evidence"]] == ["hard bounce"]


def _readdressed(change: EmailChange, recipient: str) -> EmailChange:
    assert change.state.request is not None
    moved = msgspec.structs.replace(change.state.request, recipient=recipient)
    return msgspec.structs.replace(change, state=msgspec.structs.replace(change.state, request=moved))


async def test_repeated_fact_adds_its_position_up_to_a_hundred(connection: Connection, sink: Sink) -> None:
    log = Log().fold(request(1))
    for _ in range(150):
        log.fold(event(1, EventKind.DELIVERED, T0))
    await project(connection, sink, log.runs(3, 80))
    cursor = await connection.execute("select places from projections.timeline where kind = 'delivered'")
    [(places,)] = await cursor.fetchall()
    assert places == [f"facts/0/{offset}" for offset in range(1, 101)]


async def test_values_that_postgres_cannot_store_are_still_projected(connection: Connection, sink: Sink) -> None:
    odd = msgspec.structs.replace(request(1), recipient="a\x00b@example.com", identity="\x00", brand="b\x00")
    late = msgspec.structs.replace(event(1, EventKind.OPENED, T0), occurred_at=2**70, event_id="\x00")
    await project(connection, sink, Log().fold(odd).fold(late).runs())
    cursor = await connection.execute("select recipient, status from projections.history")
    assert await cursor.fetchall() == [("a\ufffdb@example.com", "opened")]


async def test_renormalized_event_is_on_timeline_despite_repeats_of_first_reading(
    connection: Connection, sink: Sink
) -> None:
    bounced = event(1, EventKind.BOUNCED, T0)
    corrected = again(bounced, EventKind.DEFERRED, T0 + 9)
    log = Log().fold(request(1))
    for _ in range(MAX_PLACES + 5):
        log.fold(bounced)
    log.fold(corrected).fold(bounced)
    await project(connection, sink, log.runs(50, MAX_PLACES, MAX_PLACES + 6))
    query = "select kind, revision, cardinality(places) from projections.timeline where event_id = %s"
    assert await (await connection.execute(query, (bounced.event_id,))).fetchall() == [("deferred", 1, MAX_PLACES)]
