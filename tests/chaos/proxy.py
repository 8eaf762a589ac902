"""A TCP proxy in front of a broker that can hold back produce requests and forward everything else.

The log then neither confirms nor refuses, while commits, heartbeats and fetches continue: whatever is acknowledged in
that time is acknowledged too early.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

_PRODUCE = 0
"""API key of produce requests in the Kafka protocol. Other steps of a transaction are forwarded, so that offsets which
are committed too early are noticed too."""


class KafkaProxy:
    """The proxy; while ``open`` is not set, it holds back produce requests."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._target = host, port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.port = 0
        self.plain_only = False
        """Whether to hold back only requests outside of transactions."""
        self.about = b""
        """Bytes that a request must contain to be held back, such as the name of a topic."""
        self.held = 0
        """Number of requests that were held back."""

    @property
    def bootstrap(self) -> str:
        return f"{self._host}:{self.port}"

    def hold(self, *, plain_only: bool = False, about: bytes = b"") -> None:
        self.plain_only, self.about = plain_only, about
        self.open.clear()

    async def caught(self, patience: float = 20) -> None:
        """Wait until a request is held back that arrived after :meth:`hold`, or until the timeout."""
        before = self.held
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.held == before:
                    await asyncio.sleep(0.02)

    def let_go(self) -> None:
        self.open.set()

    def forget(self) -> None:
        """Close every connection, so that held requests never reach the broker."""
        for task in self._tasks:
            task.cancel()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.forget()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, here = await asyncio.open_connection(self._host, self._target)
        except OSError:
            writer.close()
            return
        for source, sink, requests in ((reader, here, True), (there, writer, False)):
            task = asyncio.create_task(self._forward(source, sink, requests))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, requests: bool) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    size = await source.readexactly(4)
                    frame = await source.readexactly(struct.unpack(">i", size)[0])
                    if requests and not self.open.is_set() and self._concerns(frame):
                        self.held += 1
                        await self.open.wait()
                    sink.write(size + frame)
                    await sink.drain()
        finally:
            sink.close()

    def _concerns(self, frame: bytes) -> bool:
        """Return whether a frame is a produce request of the kind that is held back."""
        if struct.unpack(">h", frame[:2])[0] != _PRODUCE or self.about not in frame:
            return False
        return not (self.plain_only and _transactional(frame))


def _transactional(frame: bytes) -> bool:
    """Return whether a produce request belongs to a transaction.

    Its header (version 1) has key, version, correlation id and client id; from version 3 of the request on, a
    transactional id or none follows.
    """
    (version,) = struct.unpack_from(">h", frame, 2)
    (client,) = struct.unpack_from(">h", frame, 8)
    (length,) = struct.unpack_from(">h", frame, 10 + max(client, 0))
    return bool(version >= 3 and length >= 0)


@contextlib.asynccontextmanager
async def proxy(made: KafkaProxy) -> AsyncIterator[KafkaProxy]:
    """Run the proxy until the block ends."""
    await made.start()
    try:
        yield made
    finally:
        await made.close()
