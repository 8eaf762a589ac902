"""Test the event buffer: it appends in batches, spools while the log is slow, and counts what is lost."""

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
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records
from topics import ids
from topics.codec import decode
from topics.events import DeliveryEvent, EventKind
from topics.registry import DELIVERY_EVENTS

EMAIL = ids.email_id("acme", "fasttrack", "one")


def deferred_event(number: int) -> DeferredEvent:
    event = DeliveryEvent(
        email_id=EMAIL,
        event_id=f"pixel:{number}",
        kind=EventKind.OPENED,
        occurred_at=number,
        recorded_at=number,
        provider="pixel",
    )
    return lambda: event


def metric(state: GatewayState, name: str) -> float:
    value: Any = state.metrics.registry.get_sample_value(f"mailfold_{name}")
    return float(value or 0)


@contextlib.asynccontextmanager
async def running_buffer(rt: Runtime) -> AsyncIterator[GatewayState]:
    """Yield a gateway's state without its server; write all buffered events at the end of the block."""
    state = make_gateway_state(rt)
    yield state
    running = asyncio.create_task(state.event_buffer.run())
    await state.event_buffer.finish(running)
    running.result()
    state.spool.close()


async def recorded_event_ids(settings: Settings) -> set[str]:
    """Return the ids of the events on the log and in the spool."""
    on_log = {event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}
    return on_log | {event.event_id for event in spooled_events(settings.data_dir / "spool")}


def spooled_events(folder: Path) -> list[DeliveryEvent]:
    lines = [line for file in folder.glob("*.events") for line in file.read_bytes().splitlines()]
    return [decode(DELIVERY_EVENTS, line) for line in lines]


async def test_events_over_the_threshold_go_through_the_spool(settings: Settings) -> None:
    many = SPOOL_THRESHOLD_EVENTS + 1_000
    async with open_runtime(settings) as rt, running_buffer(rt) as state:
        for number in range(many):
            state.event_buffer.put(deferred_event(number))
        assert metric(state, "notes_waiting") == many
    assert metric(state, "notes_waiting") == 0
    assert metric(state, "spooled_total") >= SPOOL_THRESHOLD_EVENTS
    assert metric(state, "spool_lost_total") == 0
    assert await recorded_event_ids(settings) == {f"pixel:{number}" for number in range(many)}


async def test_stop_during_a_log_outage_leaves_all_events_in_the_spool(settings: Settings) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        away = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap})
        async with open_runtime(away) as rt, running_buffer(rt) as state:
            proxy.away()
            for number in range(500):
                state.event_buffer.put(deferred_event(number))
    assert {event.event_id for event in spooled_events(settings.data_dir / "spool")} == {
        f"pixel:{n}" for n in range(500)
    }


async def test_buffer_is_bounded_and_lost_events_are_counted(settings: Settings) -> None:
    async with open_runtime(settings) as rt:
        state = make_gateway_state(rt)
        for number in range(BUFFER_MAX_EVENTS + 7):
            state.event_buffer.put(deferred_event(number))
        assert metric(state, "notes_waiting") == BUFFER_MAX_EVENTS
        assert metric(state, "spool_lost_total") == 7


async def test_deferred_event_without_result_is_skipped(settings: Settings) -> None:
    async with open_runtime(settings) as rt, running_buffer(rt) as state:
        for number in range(10):
            state.event_buffer.put(deferred_event(number) if number % 2 else lambda: None)
    assert await recorded_event_ids(settings) == {f"pixel:{number}" for number in (1, 3, 5, 7, 9)}


async def test_pixel_is_sent_before_its_token_is_read(settings: Settings) -> None:
    """Compare the ASGI messages for a valid and a forged token, which must be the same."""
    valid_token = tokens.pixel_token(Signer(secret_ring(settings), "track"), EMAIL)
    async with open_runtime(settings) as rt, running_buffer(rt) as state:
        app, responses = make_app(state), []
        for index, token in enumerate((valid_token, "A" * len(valid_token))):
            sent: list[tuple[Any, float]] = []

            async def send(message: Any, sent: list[tuple[Any, float]] = sent) -> None:
                sent.append((message, metric(state, "notes_waiting")))

            await app(http_scope(f"/o/{token}.gif"), receive_disconnect, send)
            assert [waiting for _, waiting in sent] == [index, index]
            assert metric(state, "notes_waiting") == index + 1
            responses.append([message for message, _ in sent])
        assert responses[0] == responses[1]
        assert state.metrics.registry.get_sample_value("mailfold_forged_total", {"surface": "pixel"}) is None
    assert state.metrics.registry.get_sample_value("mailfold_forged_total", {"surface": "pixel"}) == 1
    assert len(await recorded_event_ids(settings)) == 1


def http_scope(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "headers": [(b"user-agent", b"Mail/16.0")], "client": None}


async def receive_disconnect() -> dict[str, Any]:
    return {"type": "http.disconnect"}
