"""Test that each response and each log line of a request carries the request's own id, and nobody else's fields."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipeline.gateway.app import ResponseMiddleware
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.observing.logs import bind_log_fields, get_logger
from tests.support.logs import captured_log_lines

log = get_logger(__name__)


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def call(app: Any, sent_id: str | None = None) -> str:
    """Send a request through the middleware, and return the id in its response."""
    messages: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        messages.append(message)

    headers = [] if sent_id is None else [(b"x-request-id", sent_id.encode("latin-1"))]
    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": headers}
    await ResponseMiddleware(app, GatewayMetrics(), lambda: "ours")(scope, receive, send)
    [start] = messages
    return bytes(dict(start["headers"])[b"x-request-id"]).decode()


@pytest.mark.parametrize("sent_id", ["a", "0191f0c2-7c5e-7d5e-8b7a-1b2c3d4e5f60", "Root=1-67/a:b+c_d.e", "x" * 128])
async def test_safe_id_of_the_client_is_kept(sent_id: str) -> None:
    assert await call(answer, sent_id) == sent_id


@pytest.mark.parametrize(
    "sent_id", [None, "", "x" * 129, "anna@example.com", "two words", 'a"b', "a\tb", "a\nb", "a\n", "ü", "a;b", "<b>"]
)
async def test_missing_or_unsafe_id_is_replaced(sent_id: str | None) -> None:
    assert await call(answer, sent_id) == "ours"


async def test_lines_of_concurrent_requests_carry_their_own_fields() -> None:
    everybody_began = asyncio.Barrier(5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        own_id = dict(scope["headers"])[b"x-request-id"].decode()
        bind_log_fields(tenant=f"tenant of {own_id}")
        await everybody_began.wait()
        log.warning("answered", expected=own_id)
        await answer(scope, receive, send)

    with captured_log_lines() as lines:
        await asyncio.gather(*(call(app, str(number)) for number in range(5)))
    assert {line["request_id"] for line in lines()} == {"0", "1", "2", "3", "4"}
    for line in lines():
        assert (line["request_id"], line["tenant"]) == (line["expected"], f"tenant of {line['expected']}")


async def test_request_inherits_nothing_from_its_context() -> None:
    callers: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        callers.append(CURRENT_CALLER.get())
        log.warning("answered")
        await answer(scope, receive, send)

    async def request_after_another() -> None:
        CURRENT_CALLER.set("acme")
        bind_log_fields(tenant="acme", provider="mine", email_id="1")
        await call(app, "second")

    with captured_log_lines() as lines:
        await asyncio.create_task(request_after_another())
    [line] = lines()
    assert callers == [""]
    assert line["request_id"] == "second"
    assert line.keys().isdisjoint({"tenant", "provider", "email_id"})
