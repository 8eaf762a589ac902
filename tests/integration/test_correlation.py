"""Correlation of events with emails by the provider's message id: in any order, and after crashes."""

import asyncio
import random
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.devstack.supervisor import Stack
from pipeline.dispatch.correlation import loop
from pipeline.operations import dead_letters, status
from pipeline.operations.trace import find
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from pipeline.webhooks.provider_message_ids import match_key
from tests.support.caught_up import CaughtUp
from tests.support.dispatching import dispatching
from tests.support.seeing import on, rows, until
from topics.acks import Acked
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId
from topics.registry import DEAD_LETTERS, DELIVERY_EVENTS, PROVIDER_ACKS, UNCORRELATED_EVENTS


def now() -> int:
    return time.time_ns() // 1_000_000


def fresh() -> EmailId:
    return EmailId(str(uuid.uuid4()))


def acked(email_id: EmailId, name: str, provider: str = "relay") -> LogEntry:
    ack = Acked(
        email_id=email_id,
        event_id=f"ack:{email_id}",
        occurred_at=now(),
        recorded_at=now(),
        provider=provider,
        provider_message_id=name,
    )
    return LogEntry(PROVIDER_ACKS, email_id, ack)


def uncorrelated(name: str, event_id: str, provider: str = "relay") -> LogEntry:
    event = DeliveryEvent(
        email_id=EmailId(""),
        event_id=event_id,
        kind=EventKind.DELIVERED,
        occurred_at=now(),
        recorded_at=now(),
        provider=provider,
        provider_message_id=name,
        native=msgspec.Raw(b'{"a":1}'),
    )
    return LogEntry(UNCORRELATED_EVENTS, match_key(name), event)


async def delivery_event_ids(settings: Settings) -> set[tuple[str, str]]:
    return {(event.email_id, event.event_id) for event in await on(settings, DELIVERY_EVENTS)}


async def parked(rt: Runtime) -> int:
    [(count,)] = await rows(rt, "select count(*) from correlation.parked")
    return int(count)


async def test_ack_and_event_match_in_either_order_and_parked_event_is_shown(
    settings: Settings, caught_up: CaughtUp
) -> None:
    early, late, alias = fresh(), fresh(), fresh()
    async with dispatching(settings) as rt:
        await append_all(rt.log, [acked(early, "<early@relay>")])
        await caught_up.correlation()
        await append_all(
            rt.log,
            [uncorrelated("early@relay", "e1"), uncorrelated("late", "e2"), uncorrelated("late", "e3", "another")],
        )
        await until(lambda: _is(parked(rt), 2))
        await until(lambda: _is(delivery_event_ids(settings), {(early, "e1")}))

        seen = (await status.read_status(rt)).parked
        assert seen.count == 2
        assert seen.oldest is not None
        [found, _] = (await find(rt, "<late>")).parked
        assert (found.provider, found.provider_message_id, found.kind) == ("relay", "late", "delivered")
        assert found.place.startswith("uncorrelated-events/")

        # One provider's id says nothing of another's.
        await append_all(rt.log, [acked(late, "late")])
        await until(lambda: _is(delivery_event_ids(settings), {(early, "e1"), (late, "e2")}))
        await until(lambda: _is(parked(rt), 1))
        event = next(one for one in await on(settings, DELIVERY_EVENTS) if one.event_id == "e2")
        assert event == msgspec.structs.replace(uncorrelated("late", "e2").record, email_id=late, **_times(event))

        # The same id for two emails names neither, and who knows it already learns it too late.
        await append_all(rt.log, [acked(early, "shared"), acked(alias, "shared")])
        await caught_up.correlation()
        await append_all(rt.log, [uncorrelated("shared", "e4")])
        await caught_up.correlation()
        assert await parked(rt) == 2
        assert await delivery_event_ids(settings) == {(early, "e1"), (late, "e2")}


async def test_two_dispatchers_match_concurrent_acks_and_events(settings: Settings, caught_up: CaughtUp) -> None:
    chance = random.Random(5)
    emails = [fresh() for _ in range(300)]
    entries = [acked(email_id, f"<{email_id}>") for email_id in emails]
    entries += [uncorrelated(email_id, f"{email_id}/{nth}") for email_id in emails for nth in range(2)]
    chance.shuffle(entries)
    async with dispatching(settings) as one, dispatching(settings):
        for start in range(0, len(entries), 100):
            await append_all(one.log, entries[start : start + 100])
            await asyncio.sleep(chance.random() / 10)  # so that the readers meet parts of it
        await caught_up.correlation()
        await until(lambda: _is(parked(one), 0))
        assert await delivery_event_ids(settings) == {
            (email_id, f"{email_id}/{nth}") for email_id in emails for nth in range(2)
        }


async def test_dispatcher_killed_before_unparking_appends_event_again(
    settings: Settings, tmp_path: Path, caught_up: CaughtUp
) -> None:
    email_id = fresh()
    fuse = tmp_path / "fuse"
    fuse.touch()
    env = {"MAILFOLD_CRASH_AT": "correlate.before-unpark", "MAILFOLD_CRASH_ONCE": str(fuse)}
    async with open_runtime(settings) as rt:
        async with Stack(settings, roles=["dispatch"], role_env={"dispatch": env}):
            await append_all(rt.log, [uncorrelated("m", "e1")])
            await until(lambda: _is(parked(rt), 1), 40)
            await append_all(rt.log, [acked(email_id, "m")])
            await until(lambda: not fuse.exists())
            # Killed there: it is on the log, and waits to be told.
            await until(lambda: _is(parked(rt), 0), 40)
        assert [(event.email_id, event.event_id) for event in await on(settings, DELIVERY_EVENTS)] == [
            (email_id, "e1")
        ] * 2


async def test_emptied_tables_are_refilled_and_unmatched_event_becomes_dead_letter(
    settings: Settings, caught_up: CaughtUp
) -> None:
    known, unknown = fresh(), fresh()
    async with dispatching(settings) as rt:
        await append_all(rt.log, [acked(known, "known"), uncorrelated("unknown", "e1")])
        await caught_up.correlation()
        await rows_changed(rt, "truncate correlation.parked, correlation.provider_ids, correlation.next_offsets")
        # It notices at the next record.
        await append_all(rt.log, [uncorrelated("known", "e2")])
        await until(lambda: _is(delivery_event_ids(settings), {(known, "e2")}))
        await caught_up.correlation()
        assert await parked(rt) == 1
        await append_all(rt.log, [acked(unknown, "unknown"), uncorrelated("somebody's else", "e3")])
        await until(lambda: _is(delivery_event_ids(settings), {(known, "e2"), (unknown, "e1")}))
        await caught_up.correlation()
        assert await parked(rt) == 1

    short = settings.model_copy(update={"parked_days": 1e-9, "provider_id_days": 1e-9})
    async with dispatching(short) as rt:
        await until(lambda: _is(parked(rt), 0))
        await until(lambda: _empty(rt, "correlation.provider_ids"))
    # Whoever replays it lets it wait once more, and this time it is not in vain.
    async with dispatching(settings) as rt:
        await dead_letters.replay(rt, "dead-letters/0/0")
        await until(lambda: _is(parked(rt), 1))
        await append_all(rt.log, [acked(known, "somebody's else")])
        await until(lambda: _is(delivery_event_ids(settings), {(known, "e2"), (unknown, "e1"), (known, "e3")}))
    [letter] = await on(settings, DEAD_LETTERS)
    assert (letter.reason, letter.source.topic, letter.role) == ("uncorrelated", "uncorrelated-events", "dispatch")
    assert msgspec.json.decode(letter.value)["event_id"] == "e3"


def claim(email_id: EmailId, event_id: str, provider: str = "relay", name: str = "") -> LogEntry:
    """An event that names an email without proof."""
    entry = uncorrelated(name, event_id, provider)
    record = msgspec.structs.replace(entry.record, claimed_email_id=email_id)
    return LogEntry(UNCORRELATED_EVENTS, match_key(name) or email_id, record)


async def project(rt: Runtime, fact: Any) -> None:
    """Write a fact to the timeline, as the projector does."""
    kind = "acked" if isinstance(fact, Acked) else fact.kind.value
    values: Any = (
        fact.email_id,
        fact.event_id,
        kind,
        fact.occurred_at,
        fact.recorded_at,
        [],
        msgspec.json.encode(fact),
    )
    columns = "email_id, event_id, kind, occurred_at, recorded_at, places, fact"
    async with rt.pool.connection() as connection:
        query = f"insert into projections.timeline ({columns}) values (%s, %s, %s, %s, %s, %s, %s)"
        await connection.execute(query.encode(), values)


async def test_claimed_email_counts_once_an_ack_of_the_same_provider_is_projected(
    settings: Settings, caught_up: CaughtUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CLAIMS_INTERVAL_MS", 0)
    early, late, known = fresh(), fresh(), fresh()
    async with dispatching(settings) as rt:
        await project(rt, acked(early, "").record)
        counted = msgspec.structs.replace(uncorrelated("", "before").record, email_id=known)
        await project(rt, counted)
        claims = [claim(early, "e1"), claim(late, "e2"), claim(early, "e3", "another"), claim(known, "before")]
        await append_all(rt.log, claims)
        await until(lambda: _is(delivery_event_ids(settings), {(early, "e1"), (known, "before")}))
        await caught_up.correlation()
        assert await parked(rt) == 2
        [found] = (await find(rt, late)).parked
        assert (found.claimed_email_id, found.provider, found.kind) == (late, "relay", "delivered")

        await project(rt, acked(late, "").record)
        await until(lambda: _is(delivery_event_ids(settings), {(early, "e1"), (known, "before"), (late, "e2")}))
        await until(lambda: _is(parked(rt), 1))
    assert {event.claimed_email_id for event in await on(settings, DELIVERY_EVENTS)} == {""}


async def test_message_id_of_the_ack_overrules_the_claim(settings: Settings, caught_up: CaughtUp) -> None:
    claimed, taken = fresh(), fresh()
    async with dispatching(settings) as rt:
        await append_all(rt.log, [acked(taken, "m")])
        await caught_up.correlation()
        await append_all(rt.log, [claim(claimed, "e1", name="m")])
        await until(lambda: _is(delivery_event_ids(settings), {(taken, "e1")}))


async def test_claim_that_no_ack_proves_becomes_a_dead_letter_that_says_so(settings: Settings) -> None:
    victim = fresh()
    short = settings.model_copy(update={"parked_days": 1e-9})
    async with dispatching(short) as rt:
        await project(rt, acked(victim, "", "victims-own").record)
        await append_all(rt.log, [claim(victim, "forged", "of-hostile")])
        await until(lambda: on(settings, DEAD_LETTERS))
    assert await delivery_event_ids(settings) == set()
    [letter] = await on(settings, DEAD_LETTERS)
    assert letter.reason == "unproven"
    assert victim in letter.error
    assert "of-hostile" in letter.error
    # Replayed, it waits for its ack again.
    async with dispatching(settings) as rt:
        await dead_letters.replay(rt, "dead-letters/0/0")
        await until(lambda: _is(parked(rt), 1))


async def _is(asked: Any, wanted: Any) -> bool:
    return bool(await asked == wanted)


async def _empty(rt: Runtime, table: str) -> bool:
    return await rows(rt, f"select from {table} limit 1") == []


async def rows_changed(rt: Runtime, query: str) -> None:
    async with rt.pool.connection() as connection:
        await connection.execute(query.encode())


def _times(event: DeliveryEvent) -> dict[str, Any]:
    return {"occurred_at": event.occurred_at, "recorded_at": event.recorded_at}
