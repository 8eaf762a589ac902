"""What was heard and answered is written down: in batches, by the spool where the log is slow, counted where lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pipeline.content import tokens
from pipeline.gateway.app import make_app
from pipeline.gateway.event_buffer import BUFFER_MAX_EVENTS, SPOOL_THRESHOLD_EVENTS, DeferredEvent
from pipeline.gateway.state import GatewayState, make_gateway_state
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.signing import Signer
from pipeline.settings import Settings
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records
from topics import ids
from topics.codec import decode
from topics.events import DeliveryEvent, EventKind
from topics.registry import DELIVERY_EVENTS

EMAIL = ids.email_id("acme", "fasttrack", "one")


def note(number: int) -> DeferredEvent:
    event = DeliveryEvent(
        email_id=EMAIL,
        event_id=f"pixel:{number}",
        kind=EventKind.OPENED,
        occurred_at=number,
        recorded_at=number,
        provider="pixel",
    )
    return lambda: event


def value(world: GatewayState, name: str) -> float:
    found: Any = world.metrics.registry.get_sample_value(f"mailfold_{name}")
    return float(found or 0)


@contextlib.asynccontextmanager
async def noting(rt: Runtime) -> AsyncIterator[GatewayState]:
    """A gateway's world without its server; at the end what is in hand is written down."""
    world = make_gateway_state(rt)
    yield world
    running = asyncio.create_task(world.event_buffer.run())
    await world.event_buffer.finish(running)
    running.result()
    world.spool.close()


async def heard(settings: Settings) -> set[str]:
    """On the log or in the spool."""
    on_log = {event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}
    return on_log | {event.event_id for event in spooled(settings.data_dir / "spool")}


def spooled(folder: Path) -> list[DeliveryEvent]:
    lines = [line for file in folder.glob("*.events") for line in file.read_bytes().splitlines()]
    return [decode(DELIVERY_EVENTS, line) for line in lines]


async def test_what_comes_faster_than_the_log_takes_it_goes_by_way_of_the_spool(settings: Settings) -> None:
    many = SPOOL_THRESHOLD_EVENTS + 1_000
    async with open_runtime(settings) as rt, noting(rt) as world:
        for number in range(many):
            world.event_buffer.put(note(number))
        assert value(world, "notes_waiting") == many
    assert value(world, "notes_waiting") == 0
    assert value(world, "spooled_total") >= SPOOL_THRESHOLD_EVENTS
    assert value(world, "spool_lost_total") == 0
    assert await heard(settings) == {f"pixel:{number}" for number in range(many)}


async def test_a_log_that_is_away_when_told_to_stop_leaves_all_in_the_spool(settings: Settings) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        away = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap})
        async with open_runtime(away) as rt, noting(rt) as world:
            proxy.away()
            for number in range(500):
                world.event_buffer.put(note(number))
    assert {event.event_id for event in spooled(settings.data_dir / "spool")} == {f"pixel:{n}" for n in range(500)}


async def test_memory_is_bounded_and_what_is_lost_is_counted(settings: Settings) -> None:
    async with open_runtime(settings) as rt:
        world = make_gateway_state(rt)
        for number in range(BUFFER_MAX_EVENTS + 7):
            world.event_buffer.put(note(number))
        assert value(world, "notes_waiting") == BUFFER_MAX_EVENTS
        assert value(world, "spool_lost_total") == 7


async def test_what_came_to_nothing_is_no_event_and_stops_nothing(settings: Settings) -> None:
    async with open_runtime(settings) as rt, noting(rt) as world:
        for number in range(10):
            world.event_buffer.put(note(number) if number % 2 else lambda: None)
    assert await heard(settings) == {f"pixel:{number}" for number in (1, 3, 5, 7, 9)}


async def test_a_picture_is_out_before_anything_is_noted_and_before_its_token_is_looked_at(settings: Settings) -> None:
    """By ASGI, message for message: a forged token's way differs in nothing."""
    good = tokens.pixel_token(Signer(settings.secret.get_secret_value(), "track"), EMAIL)
    async with open_runtime(settings) as rt, noting(rt) as world:
        app, ways = make_app(world), []
        for nth, token in enumerate((good, "A" * len(good))):
            way: list[tuple[Any, float]] = []

            async def send(message: Any, way: list[tuple[Any, float]] = way) -> None:
                way.append((message, value(world, "notes_waiting")))

            await app(asked(f"/o/{token}.gif"), nothing_more, send)
            assert [waiting for _, waiting in way] == [nth, nth]
            assert value(world, "notes_waiting") == nth + 1
            ways.append([message for message, _ in way])
        assert ways[0] == ways[1]
        assert world.metrics.registry.get_sample_value("mailfold_forged_total", {"surface": "pixel"}) is None
    assert world.metrics.registry.get_sample_value("mailfold_forged_total", {"surface": "pixel"}) == 1
    assert len(await heard(settings)) == 1


def asked(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [(b"user-agent", b"Mail/16.0")], "client": None}


async def nothing_more() -> dict[str, Any]:
    return {"type": "http.disconnect"}
