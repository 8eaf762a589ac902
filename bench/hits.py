"""Load generator of the pixel stage, as a process: `python -m bench.hits HOST PORT CONNECTIONS TOTAL < paths`.

It uses keep-alive connections with one request at a time on each, as mail programs do. It prints JSON: the seconds in
total and the milliseconds of each response.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import cast

import uvloop

from pipeline.gateway.routes.tracking import PIXEL_GIF

AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.0"


class Reader(asyncio.Protocol):
    """One connection that requests the next image when the previous one is complete."""

    def __init__(self, requests: Iterator[bytes], millis: list[float]) -> None:
        self._requests = requests
        self._millis = millis
        self._got = b""
        self._asked = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own don't derive from it
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(PIXEL_GIF):
            return
        if not self._got.startswith(b"HTTP/1.1 200 "):
            self.done.set_exception(RuntimeError(repr(self._got[:200])))
            return
        self._millis.append((time.perf_counter() - self._asked) * 1000)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or RuntimeError("the gateway hung up"))

    def _ask(self) -> None:
        self._got = b""
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._asked = time.perf_counter()
        self._transport.write(request)


async def load(host: str, port: int, connections: int, total: int, paths: list[str]) -> dict[str, object]:
    """Send ``total`` requests and return the seconds in total and the milliseconds of each."""
    made = [f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: image/*\r\n\r\n" for path in paths]
    raw = [request.encode() for request in made]
    requests = (raw[number % len(raw)] for number in range(total))
    millis: list[float] = []
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    opened = [await loop.create_connection(lambda: Reader(requests, millis), host, port) for _ in range(connections)]
    await asyncio.gather(*(reader.done for _, reader in opened))
    return {"seconds": time.perf_counter() - began, "millis": millis}


if __name__ == "__main__":
    where, port, connections, total = sys.argv[1], *map(int, sys.argv[2:5])
    print(json.dumps(uvloop.run(load(where, port, connections, total, sys.stdin.read().split()))))
