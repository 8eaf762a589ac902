"""Run a TCP proxy before a real broker, so that a test can make the log unavailable to one role for a while.

A broker's responses contain its own address, which the proxy replaces with its own.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator


class KafkaProxy:
    """A proxy that forwards while ``open`` is set, and otherwise delays all data and new connections."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.bootstrap = ""

    def away(self) -> None:
        """Stop forwarding, as if the broker were frozen or cut off."""
        self.open.clear()

    def back(self) -> None:
        """Forward again, and first what was delayed."""
        self.open.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a client's connection in both directions."""
        await self.open.wait()
        broker_reader, broker_writer = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, broker_writer), (broker_reader, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = await source.readexactly(4)
                frame = await source.readexactly(struct.unpack(">i", size)[0])
                await self.open.wait()
                sink.write(size + frame.replace(self._address(self._port), self._address(self._own_port())))
                await sink.drain()
        sink.close()

    def _own_port(self) -> int:
        return int(self.bootstrap.rpartition(":")[2])

    def _address(self, port: int) -> bytes:
        return self._host.encode() + struct.pack(">i", port)

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def kafka_proxy(bootstrap: str) -> AsyncIterator[KafkaProxy]:
    """Run a proxy on a free port."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    proxy = KafkaProxy(host, int(port))
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.bootstrap = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
