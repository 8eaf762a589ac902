"""Accept Postgres connections with TLS and pass them on in plain text: the embedded server knows no TLS."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator

_SSL_REQUEST = struct.pack("!II", 8, 80877103)


@contextlib.asynccontextmanager
async def tls_proxy(upstream_port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Run a proxy on a loopback port until the end of the block; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            if await reader.readexactly(8) != _SSL_REQUEST:
                writer.close()
                return
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", upstream_port)
            await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
