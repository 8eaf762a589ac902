"""Correlation on a real Postgres: acks and events match in any order and any batches."""

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.dispatch.correlation.parked import SQL
from pipeline.dispatch.correlation.parse import CorrelationBatch, UncorrelatedEvent
from pipeline.dispatch.correlation.store import write_and_match
from tests.support.changes import identified
from tests.support.facts import event
from topics.events import EventKind

Connection = psycopg.AsyncConnection[Any]
KEYS = [(provider, name) for provider in ("p", "q") for name in ("m1", "m2", "m3")]


def ack(key: tuple[str, str], number: int) -> CorrelationBatch:
    return CorrelationBatch(ids={(key, identified(number)): 1})


def uncorrelated(key: tuple[str, str], place: int) -> CorrelationBatch:
    return CorrelationBatch(waiting=[UncorrelatedEvent(key, 0, place, 1, event(EventKind.OPENED, f"e{place}"))])


def together(parts: Sequence[CorrelationBatch]) -> CorrelationBatch:
    learnt = CorrelationBatch()
    for part in parts:
        learnt.ids |= part.ids
        learnt.waiting += part.waiting
    return learnt


async def told(connection: Connection) -> dict[int, str]:
    """Which email each event finds now; they go, as when they are told."""
    rows = await (await connection.execute(SQL["to_tell"], {"limit": 100})).fetchall()
    places = {"partitions": [row[0] for row in rows], "places": [row[1] for row in rows]}
    await connection.execute(SQL["unpark"], places)
    return {row[1]: row[2] for row in rows}


Told = list[tuple[tuple[str, str], int]]


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Told, list[tuple[str, str]], list[list[CorrelationBatch]]]:
    """Acks, events, and the batches in which they come."""
    acks = draw(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 3)), max_size=8))
    events = draw(st.lists(st.sampled_from(KEYS), max_size=8))
    parts = [ack(*one) for one in acks] + [uncorrelated(key, place) for place, key in enumerate(events)]
    mixed = draw(st.permutations(parts))
    batches = []
    while mixed:
        cut = draw(st.integers(1, len(mixed)))
        batches.append(mixed[:cut])
        mixed = mixed[cut:]
    return acks, events, batches


async def test_ack_and_event_match_in_any_order_and_batches(connection: Connection) -> None:
    async def once(acks: Told, events: list[tuple[str, str]], batches: list[list[CorrelationBatch]]) -> None:
        await connection.execute("truncate correlation.parked, correlation.provider_ids")
        found: dict[int, str] = {}
        for batch in map(together, batches):
            async with connection.transaction():
                await write_and_match(connection, batch, batch.waiting)
            found |= await told(connection)
        for place, key in enumerate(events):
            emails = {identified(number) for one, number in acks if one == key}
            # Of two emails of one name the second's ack may come too late for an event, and only then is it told.
            assert (place in found and found[place] in emails) or (len(emails) != 1 and place not in found)
        left = await (await connection.execute("select place from correlation.parked")).fetchall()
        assert {row[0] for row in left} == set(range(len(events))) - set(found)

    loop = asyncio.get_running_loop()

    def example(script: tuple[Told, list[tuple[str, str]], list[list[CorrelationBatch]]]) -> None:
        asyncio.run_coroutine_threadsafe(once(*script), loop).result(30)

    search = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    await asyncio.to_thread(search(given(scripts())(example)))


BOTH = [ack(KEYS[0], 1), ack(KEYS[0], 2)]


@pytest.mark.parametrize("batches", [[together(BOTH)], BOTH, [*BOTH, BOTH[1]]], ids=len)
async def test_message_id_of_two_emails_matches_neither(
    connection: Connection, batches: list[CorrelationBatch]
) -> None:
    for batch in [*batches, BOTH[0]]:
        await write_and_match(connection, batch, ())
    assert await write_and_match(connection, CorrelationBatch(), uncorrelated(KEYS[0], 1).waiting) == 0
    assert await told(connection) == {}


async def test_writer_waits_for_open_transaction_of_predecessor(connection: Connection, database_url: str) -> None:
    """Both insert and then match, and neither would see what the other has not committed."""
    async with await psycopg.AsyncConnection.connect(database_url) as frozen:
        await write_and_match(frozen, ack(KEYS[0], 1), ())

        async def next_one() -> int:
            async with connection.transaction():
                return await write_and_match(connection, CorrelationBatch(), uncorrelated(KEYS[0], 1).waiting)

        waiting = asyncio.create_task(next_one())
        query = (
            "select count(*) from pg_locks where not granted and locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        async with asyncio.timeout(20):
            while await (await frozen.execute(query)).fetchone() != (1,):
                await asyncio.sleep(0.01)
        await frozen.commit()
        assert await waiting == 1
    assert await told(connection) == {1: identified(1)}
