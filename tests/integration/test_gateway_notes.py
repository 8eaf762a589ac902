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


def value(state: GatewayState, name: str) -> float:
    found: Any = state.metrics.registry.get_sample_value(f"mailfold_{name}")
    return float(found or 0)


@contextlib.asynccontextmanager
async def noting(rt: Runtime) -> AsyncIterator[GatewayState]:
    """A gateway's state without its server; at the end what is in hand is written down."""
    state = make_gateway_state(rt)
    yield state
    running = asyncio.create_task(state.event_buffer.run())
    await state.event_buffer.finish(running)
    running.result()
    state.spool.close()


async def heard(settings: Settings) -> set[str]:
    """On the log or in the spool."""
    on_log = {event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}
    return on_log | {event.event_id for event in spooled(settings.data_dir / "spool")}


def spooled(folder: Path) -> list[DeliveryEvent]:
    lines = [line for file in folder.glob("*.events") for line in file.read_bytes().splitlines()]
    return [decode(DELIVERY_EVENTS, line) for line in lines]


async def test_events_over_the_threshold_go_through_the_spool(settings: Settings) -> None:
    many = SPOOL_THRESHOLD_EVENTS + 1_000
    async with open_runtime(settings) as rt, noting(rt) as state:
        for number in range(many):
            state.event_buffer.put(note(number))
        assert value(state, "notes_waiting") == many
    assert value(state, "notes_waiting") == 0
    assert value(state, "spooled_total") >= SPOOL_THRESHOLD_EVENTS
    assert value(state, "spool_lost_total") == 0
    assert await heard(settings) == {f"pixel:{number}" for number in range(many)}


async def test_stop_during_a_log_outage_leaves_all_events_in_the_spool(settings: Settings) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        away = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap})
        async with open_runtime(away) as rt, noting(rt) as state:
            proxy.away()
            for number in range(500):
                state.event_buffer.put(note(number))
    assert {event.event_id for event in spooled(settings.data_dir / "spool")} == {f"pixel:{n}" for n in range(500)}


async def test_buffer_is_bounded_and_lost_events_are_counted(settings: Settings) -> None:
    async with open_runtime(settings) as rt:
        state = make_gateway_state(rt)
        for number in range(BUFFER_MAX_EVENTS + 7):
            state.event_buffer.put(note(number))
        assert value(state, "notes_waiting") == BUFFER_MAX_EVENTS
        assert value(state, "spool_lost_total") == 7


async def test_deferred_event_without_result_is_skipped(settings: Settings) -> None:
    async with open_runtime(settings) as rt, noting(rt) as state:
        for number in range(10):
            state.event_buffer.put(note(number) if number % 2 else lambda: None)
    assert await heard(settings) == {f"pixel:{number}" for number in (1, 3, 5, 7, 9)}


async def test_pixel_is_sent_before_its_token_is_read(settings: Settings) -> None:
    """By ASGI, message for message: a forged token's way differs in nothing."""
    good = tokens.pixel_token(Signer(settings.secret.get_secret_value(), "track"), EMAIL)
    async with open_runtime(settings) as rt, noting(rt) as state:
        app, ways = make_app(state), []
        for nth, token in enumerate((good, "A" * len(good))):
            way: list[tuple[Any, float]] = []

            async def send(message: Any, way: list[tuple[Any, float]] = way) -> None:
                way.append((message, value(state, "notes_waiting")))

            await app(asked(f"/o/{token}.gif"), nothing_more, send)
            assert [waiting for _, waiting in way] == [nth, nth]
            assert value(state, "notes_waiting") == nth + 1
            ways.append([message for message, _ in way])
        assert ways[0] == ways[1]
        assert state.metrics.registry.get_sample_value("mailfold_forged_total", {"surface": "pixel"}) is None
    assert state.metrics.registry.get_sample_value("mailfold_forged_total", {"surface": "pixel"}) == 1
    assert len(await heard(settings)) == 1


def asked(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [(b"user-agent", b"Mail/16.0")], "client": None}


async def nothing_more() -> dict[str, Any]:
    return {"type": "http.disconnect"}
