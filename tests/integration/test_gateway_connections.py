"""Test the limits of HTTP connections over real sockets."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from pipeline import admin
from pipeline.dialects import fasttrack
from pipeline.errors import NotFound
from pipeline.gateway.connections import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED_REQUESTS, MAX_REQUEST_LINE_BYTES
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.observing.logs import get_logger
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.logs import captured_log_lines

ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
READ_TIMEOUT_S = 30
"""Seconds that a test waits for a response, far more than the gateway's own timeouts here."""


class Client:
    """A client on a raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes, pause: float = 0) -> None:
        """Send the pieces, with a pause in seconds after each, until the gateway closes the connection."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.sleep(pause)

    async def answer(self) -> int:
        """Read the next response and return its status, or 0 if the connection ends without one."""
        async with asyncio.timeout(READ_TIMEOUT_S):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0
            lines = head.lower().split(b"\r\n")
            lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
            await self._reader.readexactly(sum(lengths))
            return int(head.split()[1])

    async def ended(self) -> bool:
        """Wait for the end of the connection; return True if no more bytes came."""
        async with asyncio.timeout(READ_TIMEOUT_S):
            try:
                return await self._reader.read() == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(served: Gateway, count: int = 1) -> AsyncIterator[Sequence[Client]]:
    url = served.http.base_url
    clients = [Client(*await asyncio.open_connection(url.host, url.port)) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


async def refused(served: Gateway, why: str) -> float:
    return await served.metric(f'mailfold_http_refused_total{{why="{why}"}}')


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([ASK, b"\r\n"], 200),
        ([ASK, b"X-A: " + b"a" * 30_000 + b"\r\n\r\n"], 200),
        ([ASK, b"X-A: ", *[b"a" * 100_000] * 640], 431),
        ([ASK, b"X-A", *[b"a" * 100_000] * 10], 431),
        ([ASK, *[b"X-A: " + b"a" * 1_000 + b"\r\n"] * 100, b"\r\n"], 431),
        ([ASK, b"X-A: b\r\n" * (MAX_HEADERS + 1), b"\r\n"], 431),
        ([b"GET /" + b"a" * (MAX_REQUEST_LINE_BYTES - 10), b" HTTP/1.1\r\nHost: x\r\n\r\n"], 404),
        ([b"GET /" + b"a" * MAX_REQUEST_LINE_BYTES, b" HTTP/1.1\r\nHost: x\r\n\r\n"], 414),
        ([b"GET /", *[b"a" * 100_000] * 20], 414),
        ([b"\x16\x03\x01nonsense\r\n\r\n"], 400),
        ([b"POST /u/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"e" * 100_000] * 10], 404),
    ],
)
async def test_request_head_is_bounded(settings: Settings, pieces: list[bytes], status: int) -> None:
    async with gateway(settings) as served, connected(served) as [client]:
        sending = asyncio.create_task(client.send(*pieces))
        assert await client.answer() == status
        await sending
        if status in (414, 431):
            assert await client.ended()
            assert await refused(served, "head") == 1
        assert (await served.http.get("/healthz")).status_code == 200


async def test_trailers_and_chunk_extensions_are_bounded(settings: Settings) -> None:
    head = b"POST /channels/email/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with gateway(settings) as served, connected(served, 2) as clients:
        for client, endless in zip(clients, (b"1;x=", b"1\r\n[\r\n0\r\nX-Trailer: "), strict=True):
            await client.send(head % served.key.encode(), endless, *[b"e" * MAX_HEAD_BYTES] * 8)
            assert await client.answer() == 431
            assert await client.ended()


async def test_slow_head_is_closed_after_its_timeout(settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as opened:
        served = await opened.enter_async_context(gateway(settings, http_head_timeout=0.5))
        assert (await served.http.get("/healthz")).status_code == 200, "the first request takes longest"
        silent, slow, second = await opened.enter_async_context(connected(served, 3))
        await second.send(ASK, b"\r\n")
        assert await second.answer() == 200
        trickle = [b"G", *[bytes([character]) for character in b"ET /healthz HTTP/1.1\r\n"], *[b"X-A: b\r\n"] * 400]
        sending = [asyncio.create_task(client.send(*trickle, pause=0.05)) for client in (slow, second)]
        assert [await client.answer() for client in (slow, second)] == [408, 408]
        assert await silent.ended()
        assert await slow.ended()
        for task in sending:
            task.cancel()
        assert await refused(served, "slow") == 2


async def test_pipelined_request_has_the_same_head_timeout(settings: Settings) -> None:
    async with gateway(settings, http_head_timeout=0.5) as served, connected(served) as [client]:
        await client.send(ASK + b"\r\n" + b"GET /healthz HTTP/1.1\r\nX-A: ")
        sending = asyncio.create_task(client.send(*[b"a"] * 400, pause=0.05))
        assert [await client.answer(), await client.answer()] == [200, 408]
        sending.cancel()


async def test_idle_connection_is_closed_and_a_busy_one_kept(settings: Settings) -> None:
    async with gateway(settings, http_idle_timeout=1) as served, connected(served) as [client]:
        for _ in range(3):
            await client.send(ASK, b"\r\n")
            assert await client.answer() == 200
            await asyncio.sleep(0.6)
        assert await client.ended()


async def test_slow_body_is_closed_after_its_timeout(settings: Settings) -> None:
    head = b"POST /channels/email/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nContent-Length: 1000\r\n\r\n"
    async with gateway(settings, http_body_timeout=0.5) as served, connected(served) as [client]:
        sending = asyncio.create_task(client.send(head % served.key.encode(), *[b" "] * 400, pause=0.05))
        assert await client.answer() == 408
        assert await client.ended()
        sending.cancel()


async def test_unread_rest_of_a_body_has_a_short_timeout(settings: Settings, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.gateway.connections.UNREAD_BODY_TIMEOUT_S", 0.5)
    async with gateway(settings) as served, connected(served) as [client]:
        await client.send(b"POST /t/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert await client.answer() == 405
        sending = asyncio.create_task(client.send(*[b" "] * 400, pause=0.05))
        assert await client.ended()
        sending.cancel()


async def test_body_that_ends_after_its_answer_leaves_the_connection_usable(settings: Settings) -> None:
    async with gateway(settings, http_idle_timeout=1) as served, connected(served) as [client]:
        await client.send(b"POST /t/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n ")
        assert await client.answer() == 405
        await client.send(b" ")
        await client.send(ASK, b"\r\n")
        assert await client.answer() == 200
        await client.send(b"POST /t/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n ")
        assert await client.answer() == 405
        await client.send(b" ")
        assert await client.ended()


async def test_connections_per_address_are_limited(settings: Settings, capsys: Any) -> None:
    async with gateway(settings, http_connections_per_address=4) as served:
        # The test's own HTTP client uses one of the four connections.
        assert (await served.http.get("/healthz")).status_code == 200
        async with connected(served, 4) as clients:
            assert await clients[3].answer() == 503
            for client in clients[:3]:
                await client.send(ASK, b"\r\n")
                assert await client.answer() == 200
            assert await refused(served, "address") == 1
            async with connected(served) as [another]:
                assert await another.answer() == 503
        logged = [
            line for line in capsys.readouterr().err.splitlines() if "MAILFOLD_TRUSTED_PROXIES must name it" in line
        ]
        assert [json.loads(line)["limit"] for line in logged] == [4], "once"
        async with connected(served) as [client]:
            await client.send(ASK, b"\r\n")
            assert await client.answer() == 200


async def test_new_connection_replaces_the_one_idle_longest(settings: Settings) -> None:
    async with gateway(settings, http_connections=3) as served, connected(served, 3) as strangers:
        await strangers[0].send(ASK)
        async with connected(served) as [client]:
            await client.send(ASK, b"\r\n")
            assert await client.answer() == 200
            ends = await asyncio.gather(
                *(asyncio.wait_for(stranger.answer(), 1) for stranger in strangers), return_exceptions=True
            )
            assert 408 in ends
            assert any(isinstance(end, TimeoutError) for end in ends), "no connection is closed without need"


async def test_connection_with_a_stalled_body_is_replaced_too(settings: Settings) -> None:
    head = b"POST /u/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    trickle = b"POST /channels/email/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nContent-Length: 10\r\n\r\n "
    async with gateway(settings, http_connections=3) as served, connected(served, 3) as strangers:
        await strangers[0].send(head)
        for stranger in strangers[1:]:
            await stranger.send(trickle % served.key.encode())
        await asyncio.sleep(0.3)
        await strangers[1].send(b" ")
        async with connected(served, 2) as [client, another]:
            await client.send(ASK, b"\r\n")
            assert await client.answer() == 200
            await another.send(ASK, b"\r\n")
            assert await another.answer() == 200
            assert [await strangers[0].answer(), await strangers[2].answer()] == [404, 408]
            await strangers[1].send(b" " * 8)
            assert await strangers[1].answer() == 400, "a client that still sends is not closed"


async def test_full_gateway_refuses_with_503(settings: Settings, monkeypatch: Any) -> None:
    gate = threading.Event()
    monkeypatch.setattr(fasttrack, "parse_batch", lambda _: gate.wait(READ_TIMEOUT_S) and ([], []))
    head = b"POST /channels/email/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nContent-Length: 2\r\n\r\n[]"
    async with gateway(settings, http_connections=2) as served, connected(served, 2) as working:
        for client in working:
            await client.send(head % served.key.encode())
        await asyncio.sleep(0.3)
        async with connected(served) as [client]:
            assert await client.answer() == 503
        gate.set()
        assert await working[0].answer() == 200


async def test_connections_of_a_trusted_proxy_are_counted_by_client_address(settings: Settings) -> None:
    head = (
        b"POST /channels/email/batch HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nX-Forwarded-For: %s\r\n"
        b"Content-Length: 10\r\n\r\n"
    )
    changed: dict[str, Any] = {"http_connections_per_address": 2, "trusted_proxies": ("127.0.0.0/8",)}
    async with gateway(settings, **changed) as served, connected(served, 6) as clients:
        for client in clients[:3]:
            await client.send(head % (served.key.encode(), b"203.0.113.9"))
            await asyncio.sleep(0.1)
        assert await clients[2].answer() == 503
        await clients[3].send(head % (served.key.encode(), b"203.0.113.10"), b" " * 10)
        assert await clients[3].answer() == 400
        await clients[0].send(b" " * 10)
        assert await clients[0].answer() == 400
        await clients[4].send(head % (served.key.encode(), b"203.0.113.9"), b" " * 10)
        assert await clients[4].answer() == 400


async def test_pipelined_requests_are_answered_in_order_and_bounded(settings: Settings) -> None:
    async with gateway(settings) as served, connected(served, 2) as [client, greedy]:
        await client.send((ASK + b"\r\n") * 5)
        assert [await client.answer() for _ in range(5)] == [200] * 5
        await greedy.send((ASK + b"\r\n") * (MAX_PIPELINED_REQUESTS + 10))
        statuses = [await greedy.answer() for _ in range(MAX_PIPELINED_REQUESTS + 10)]
        assert statuses[-1] == 0


async def test_refused_request_is_not_answered_before_earlier_ones(settings: Settings, capsys: Any) -> None:
    wrong = ASK + b"X-A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n"
    async with gateway(settings) as served, connected(served, 2) as clients:
        for client, before in zip(clients, (1, 3), strict=True):
            await client.send((ASK + b"\r\n") * before + wrong)
            assert await client.answer() == 0
            assert await client.ended()
        assert await refused(served, "head") == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("is_pipelined", [True, False])
async def test_request_inherits_no_tenant_from_the_one_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, is_pipelined: bool
) -> None:
    callers: list[str] = []

    async def no_provider(*_: Any) -> admin.Provider:
        callers.append(CURRENT_CALLER.get())
        get_logger("test").warning("looked up")
        raise NotFound

    monkeypatch.setattr(admin, "get_provider", no_provider)
    # A body that is larger than uvicorn reads ahead: asyncio then reads on in the context of the task that asked.
    body = b" " * 500_000 + b"[]"
    head = f"POST /channels/email/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nX-Api-Key: "
    async with gateway(settings) as served, connected(served) as [client]:
        with captured_log_lines() as lines:
            authenticated = head.encode() + served.key.encode() + b"\r\n\r\n" + body
            webhook = b"GET /webhooks/mine HTTP/1.1\r\nHost: x\r\nX-Request-Id: second\r\n\r\n"
            await client.send(*([authenticated + webhook] if is_pipelined else [authenticated]))
            assert await client.answer() == 200
            if not is_pipelined:
                await client.send(webhook)
            assert await client.answer() == 404
        [line] = [line for line in lines() if line["event"] == "looked up"]
    assert callers == [""]
    assert line["request_id"] == "second"
    assert "tenant" not in line
