"""An HTTP request in, its answer out: pooled, bounded in time and size, never redirected, never into our own network.

Never raises for what a server or network does: status 0 is nobody's answer.
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
"""Of an answer's body are read, and 300 characters kept; a longer one costs its connection."""
KEEPALIVE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class ConversionResponse:
    """What came back. Status 0: nobody answered, the text says why."""

    status: int
    text: str
    retry_after: str = ""
    is_forbidden: bool = False
    """The destination is no URL, or leads into a private network: nobody was called, nobody will be."""


class ConversionClient:
    """POSTs, one at a time or many at once."""

    def __init__(self, session: aiohttp.ClientSession, timeout: float) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> ConversionResponse:
        """POST and read the answer."""
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False, timeout=self._timeout
            ) as response:
                text = await _beginning(response)
                return ConversionResponse(response.status, text, response.headers.get("Retry-After", ""))
        except TimeoutError:
            return ConversionResponse(0, f"no answer within {self._timeout.total:g} s")
        except aiohttp.ClientConnectorError as error:
            forbidden = isinstance(error.os_error, PrivateAddressError)
            return ConversionResponse(0, str(error.os_error or error), is_forbidden=forbidden)
        except aiohttp.InvalidURL as error:
            return ConversionResponse(0, f"{type(error).__name__}: {error}", is_forbidden=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return ConversionResponse(0, f"{type(error).__name__}: {error}")


async def _beginning(response: aiohttp.ClientResponse) -> str:
    body, _ = await read_bounded(response, MAX_RESPONSE_BYTES)
    text = body.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _guarded(info: tuple[Any, ...]) -> socket.socket:
    """A socket for an address that was judged; aiohttp connects it to exactly this address."""
    family, kind, proto, _, address = info
    if not is_public(str(address[0])):
        raise PrivateAddressError
    return socket.socket(family=family, type=kind, proto=proto)


@contextlib.asynccontextmanager
async def open_conversion_client(settings: Settings) -> AsyncIterator[ConversionClient]:
    """A caller with a pool of its own."""
    connector = aiohttp.TCPConnector(
        limit=settings.emit_concurrency,
        keepalive_timeout=KEEPALIVE_S,
        socket_factory=None if settings.allow_private_destinations else _guarded,
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
