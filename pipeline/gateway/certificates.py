"""A URL of the provider's own in, what lies there out: one GET, bounded in time and size, never redirected.

Which hosts may be visited is pinned in the adapter that names the URL; here it is https, with the host's certificate.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import aiohttp
from yarl import URL

from pipeline.errors import InvalidSignatureError, RecoverableError
from pipeline.runtime.http_body import read_bounded
from pipeline.runtime.ttl_cache import TTLCache

FETCH_TIMEOUT_S: Final = 5.0
RESPONSE_MAX_BYTES: Final = 64_000
MAX_FETCHES_IN_FLIGHT: Final = 8
"""Anybody may name certificates that there aren't; more than this many are not looked for at once."""
CERTIFICATE_TTL_S: Final = 86_400.0
MISSING_CERTIFICATE_TTL_S: Final = 60.0
log = logging.getLogger(__name__)

ConnectorFactory = Callable[[], aiohttp.TCPConnector]


class ProviderUnreachable(RecoverableError):
    """The provider's own server does not answer."""


class CertificateClient:
    """Certificates, remembered; and confirmations."""

    def __init__(self, connector: ConnectorFactory) -> None:
        self._connector = connector
        self._found: TTLCache[str, bytes] = TTLCache(CERTIFICATE_TTL_S, 64, time.monotonic)
        self._missed: TTLCache[str, None] = TTLCache(MISSING_CERTIFICATE_TTL_S, 1_000, time.monotonic)
        self._asking: dict[str, asyncio.Task[bytes]] = {}

    async def fetch_certificate(self, url: str) -> bytes:
        """What lies there; asked for once, however many wait for it. Raises Forged, Unreachable."""
        if url in self._missed:
            raise InvalidSignatureError("there is no such certificate")
        return await self._found.get(url, self._once)

    async def confirm_subscription(self, url: str) -> None:
        """Visit it. Raises Unreachable unless that was understood."""
        status, _ = await self._get(url)
        if status != 200:
            raise ProviderUnreachable(f"the confirmation was answered {status}")

    async def _once(self, url: str) -> bytes:
        asking = self._asking.get(url)
        if asking is None:
            if len(self._asking) >= MAX_FETCHES_IN_FLIGHT:
                raise ProviderUnreachable("too many certificates are asked for at once")
            asking = self._asking[url] = asyncio.create_task(self._ask(url))
            asking.add_done_callback(lambda _: self._asking.pop(url))
        return await asyncio.shield(asking)

    async def _ask(self, url: str) -> bytes:
        status, body = await self._get(url)
        if status == 200:
            return body
        if status >= 500 or status == 429:
            raise ProviderUnreachable(f"the certificate's server answered {status}")
        self._missed.put(url, None)
        raise InvalidSignatureError("there is no such certificate")

    async def _get(self, url: str) -> tuple[int, bytes]:
        target = URL(url, encoded=True)
        if target.scheme != "https" or target.user is not None:
            raise InvalidSignatureError("not an https URL of the provider's")
        session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S),
            auto_decompress=False,
        )
        try:
            async with session, session.get(target, allow_redirects=False) as response:
                body, is_whole = await read_bounded(response, RESPONSE_MAX_BYTES)
                if not is_whole:
                    raise ProviderUnreachable(f"more than {RESPONSE_MAX_BYTES} bytes")
                return response.status, body
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("%s does not answer: %s", target.host, type(error).__name__)
            raise ProviderUnreachable from error
