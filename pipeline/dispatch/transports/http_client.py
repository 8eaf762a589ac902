"""A request to a provider's API in, its reply out: pooled, one deadline, never redirected, bounded in size.

What ends without a reply says whether the request had begun to go out: before that, surely nothing
was taken; after it, nobody knows.
"""

import asyncio
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import ApiRequest, ApiResponse
from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.http_body import read_bounded

MAX_RESPONSE_BYTES: Final = 1_000_000
"""Of a reply; a batch's has a few hundred bytes for each mail."""
KEEPALIVE_S: Final = 15.0
"""Servers close after a minute or so; whoever closes first knows it."""


class NoApiResponse(Exception):
    """Nobody answered. ``begun``: the request may have arrived; ``ours``: the address or its TLS is wrong."""

    def __init__(self, text: str, *, begun: bool, ours: bool = False) -> None:
        super().__init__(text)
        self.request_begun = begun
        self.is_our_fault = ours


class ApiSession:
    """One provider's connections."""

    def __init__(self, provider: Provider, timeout: float) -> None:
        self._timeout = timeout
        tracing = aiohttp.TraceConfig(SimpleNamespace)
        tracing.on_request_headers_sent.append(_begun)
        connector = aiohttp.TCPConnector(
            limit=provider.max_connections, keepalive_timeout=KEEPALIVE_S, ssl=ssl.create_default_context()
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=[tracing],
            raise_for_status=False,
        )

    async def request(self, call: ApiRequest, commit: Callable[[], None] | None = None) -> ApiResponse:
        """Make the request; ``commit`` is called right before it goes out. Raises NoReply, and what ``commit`` does."""
        progress = _RequestProgress(commit)
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.request(
                    call.method,
                    call.url,
                    data=call.body or None,
                    headers=call.headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                    trace_request_ctx=progress,
                ) as response,
            ):
                headers = {name.lower(): value for name, value in response.headers.items()}
                body, _ = await read_bounded(response, MAX_RESPONSE_BYTES)
                return ApiResponse(response.status, headers, body, received_at=wall_clock())
        except TimeoutError as error:
            raise NoApiResponse(f"no answer within {self._timeout:g} s", begun=progress.begun) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            ours = isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL)
            raise NoApiResponse(f"{type(error).__name__}: {error}", begun=progress.begun, ours=ours) from error

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


class _RequestProgress:
    def __init__(self, commit: Callable[[], None] | None) -> None:
        self._commit = commit
        self.begun = False

    def begin(self) -> None:
        if self._commit is not None and not self.begun:
            self._commit()
        self.begun = True


async def _begun(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
    """Called by aiohttp with a connection in hand, before the first byte."""
    context.trace_request_ctx.begin()
