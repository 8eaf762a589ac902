"""Test that a response's body is read up to a limit and no further."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pipeline.runtime.http_body import read_bounded

MAX_BYTES = 100_000


@pytest.mark.parametrize("size", [0, 1, MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1, 3 * MAX_BYTES])
async def test_body_is_read_up_to_the_limit_and_reported_as_complete_or_not(size: int) -> None:
    body = bytes(byte % 251 for byte in range(size))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session, session.get(server.make_url("/")) as got:
        assert await read_bounded(got, MAX_BYTES) == (body[:MAX_BYTES], size <= MAX_BYTES)
