"""Requests to providers' own servers that verifying a webhook needs: certificates, and subscription confirmations.

`webhook_verifier.py` calls it. Each request is one GET by https, limited in time and size and never redirected; the
adapter that returned the URL has checked that its host is the provider's.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import aiohttp
from yarl import URL

from pipeline.errors import InvalidSignatureError, RecoverableError
from pipeline.runtime.http_body import read_bounded
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ttl_cache import TTLCache

FETCH_TIMEOUT_S: Final = 5.0
RESPONSE_MAX_BYTES: Final = 64_000
MAX_FETCHES_IN_FLIGHT: Final = 8
"""A limit because anybody can send webhooks that name certificates which do not exist."""
CERTIFICATE_TTL_S: Final = 86_400.0
MISSING_CERTIFICATE_TTL_S: Final = 60.0
log = get_logger(__name__)

ConnectorFactory = Callable[[], aiohttp.TCPConnector]


class ProviderUnreachable(RecoverableError):
    """The provider's own server does not answer."""


class CertificateClient:
    """A client of providers' own servers, with a cache of their certificates."""

    def __init__(self, connector: ConnectorFactory) -> None:
        self._connector = connector
        self._certificates: TTLCache[str, bytes] = TTLCache(CERTIFICATE_TTL_S, 64, time.monotonic)
        self._missing: TTLCache[str, None] = TTLCache(MISSING_CERTIFICATE_TTL_S, 1_000, time.monotonic)
        self._fetches: dict[str, asyncio.Task[bytes]] = {}

    async def fetch_certificate(self, url: str) -> bytes:
        """Return the certificate at this URL; concurrent calls share one request.

        Raise InvalidSignatureError if there is none, ProviderUnreachable if the server did not answer.
        """
        if url in self._missing:
            raise InvalidSignatureError("there is no such certificate")
        return await self._certificates.get(url, self._fetch_shared)

    async def confirm_subscription(self, url: str) -> None:
        """Confirm a subscription by a GET of this URL. Raise ProviderUnreachable unless the answer is 200."""
        status, _ = await self._get(url)
        if status != 200:
            raise ProviderUnreachable(f"the confirmation was answered {status}")

    async def _fetch_shared(self, url: str) -> bytes:
        """Join the fetch of this URL that is under way, or start one."""
        fetch = self._fetches.get(url)
        if fetch is None:
            if len(self._fetches) >= MAX_FETCHES_IN_FLIGHT:
                raise ProviderUnreachable("too many certificates are being fetched")
            fetch = self._fetches[url] = asyncio.create_task(self._fetch(url))
            fetch.add_done_callback(lambda _: self._fetches.pop(url))
        return await asyncio.shield(fetch)

    async def _fetch(self, url: str) -> bytes:
        status, body = await self._get(url)
        if status == 200:
            return body
        if status >= 500 or status == 429:
            raise ProviderUnreachable(f"the certificate's server answered {status}")
        self._missing.put(url, None)
        raise InvalidSignatureError("there is no such certificate")

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Return the status and body of one GET. Raise ProviderUnreachable."""
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
            log.warning("certificate not fetched", host=target.host, error=type(error).__name__)
            raise ProviderUnreachable from error
