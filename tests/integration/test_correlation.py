"""Correlation of events with emails by the provider's message id: in any order, and after crashes."""

import asyncio
import random
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from pipeline.devstack.supervisor import Stack
from pipeline.operations import dead_letters, status
from pipeline.operations.trace import find
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka import append_all
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


async def _is(asked: Any, wanted: Any) -> bool:
    return bool(await asked == wanted)


async def _empty(rt: Runtime, table: str) -> bool:
    return await rows(rt, f"select from {table} limit 1") == []


async def rows_changed(rt: Runtime, query: str) -> None:
    async with rt.pool.connection() as connection:
        await connection.execute(query.encode())


def _times(event: DeliveryEvent) -> dict[str, Any]:
    return {"occurred_at": event.occurred_at, "recorded_at": event.recorded_at}
