"""Run a real HTTP server on a free port in place of Fast Track, with the answers that a test configures."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.http_server import http_server

Answer = web.Response | Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Conversion:
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def word(self) -> str:
        return str(self.body["delivery_status"])


@dataclass
class FastTrack:
    """The conversions that arrived, and the answers to give, in order; the last one is repeated."""

    port: int = 0
    seen: list[Conversion] = field(default_factory=list)
    answers: list[int | tuple[int, dict[str, str]] | str] = field(default_factory=lambda: [200])
    busy: int = 0
    busiest: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.seen.append(Conversion(request.path, dict(request.headers), raw))
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            return await self._answer(request)
        finally:
            self.busy -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        match answer:
            case "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "slow":
                await asyncio.sleep(3)
                return web.Response()
            case "endless":
                return await _endless(request)
            case (status, headers):
                return web.Response(status=status, headers=headers)
            case _:
                assert isinstance(answer, int)
                return web.Response(status=answer, text=f"answer {answer}")


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=200)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x" * 65536)
    return response


@contextlib.asynccontextmanager
async def http_receiver(port: int = 0) -> AsyncIterator[FastTrack]:
    receiver = FastTrack()
    async with http_server(receiver.handle, port) as receiver.port:
        yield receiver
