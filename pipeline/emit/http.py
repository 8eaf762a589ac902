"""HTTP client for conversions: pooled, limited in time and size, without redirects and without access to our network.

Called by the emitter. Errors of servers and networks are never raised: a response with status 0 stands for them.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from pipeline.emit.ssrf import PrivateAddressError, is_public
from pipeline.runtime.http_body import read_bounded
from pipeline.settings import Settings

MAX_RESPONSE_BYTES: Final = 4096
"""Bytes of a response that are read. A longer response closes its connection."""
MAX_TEXT_CHARS: Final = 300
"""Characters of a response that are kept."""
KEEPALIVE_S: Final = 15.0
"""Seconds for which an idle connection is kept open."""


@dataclass(frozen=True, slots=True)
class ConversionResponse:
    """The response to a conversion."""

    status: int
    """HTTP status; 0 if there was no answer, and then ``text`` says why."""
    text: str
    retry_after: str = ""
    is_forbidden: bool = False
    """Whether the destination is not a URL or leads into a private network, so that no request was sent."""


class ConversionClient:
    """Sender of POST requests over a shared pool of connections."""

    def __init__(self, session: aiohttp.ClientSession, timeout: float) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> ConversionResponse:
        """Send a POST request and return the response."""
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False, timeout=self._timeout
            ) as response:
                text = await _read_excerpt(response)
                return ConversionResponse(response.status, text, response.headers.get("Retry-After", ""))
        except TimeoutError:
            return ConversionResponse(0, f"no answer within {self._timeout.total:g} s")
        except aiohttp.ClientConnectorError as error:
            is_forbidden = isinstance(error.os_error, PrivateAddressError)
            return ConversionResponse(0, str(error.os_error or error), is_forbidden=is_forbidden)
        except aiohttp.InvalidURL as error:
            return ConversionResponse(0, f"{type(error).__name__}: {error}", is_forbidden=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return ConversionResponse(0, f"{type(error).__name__}: {error}")


async def _read_excerpt(response: aiohttp.ClientResponse) -> str:
    body, _ = await read_bounded(response, MAX_RESPONSE_BYTES)
    text = body.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_TEXT_CHARS]


def _create_guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket for a public address; aiohttp connects it to exactly this address.

    Raises PrivateAddressError for any other address.
    """
    family, kind, proto, _, address = info
    if not is_public(str(address[0])):
        raise PrivateAddressError
    return socket.socket(family=family, type=kind, proto=proto)


@contextlib.asynccontextmanager
async def open_conversion_client(settings: Settings) -> AsyncIterator[ConversionClient]:
    """Open a client with a pool of its own."""
    connector = aiohttp.TCPConnector(
        limit=settings.emit_concurrency,
        keepalive_timeout=KEEPALIVE_S,
        socket_factory=None if settings.allow_private_destinations else _create_guarded_socket,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )
    try:
        yield ConversionClient(session, settings.emit_timeout)
    finally:
        await session.close()
        await asyncio.sleep(0)
