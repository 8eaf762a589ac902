"""HTTP client for the APIs of providers: pooled connections, one deadline, no redirects, bounded responses.

Called by `throttle` and by the configuration check. An error says whether the request had begun to be sent: if not,
nothing was accepted; if it had, the outcome is unknown.
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
"""Bytes of a response that are read; the response to a batch has a few hundred bytes per email."""
KEEPALIVE_S: Final = 15.0
"""Seconds after which we close idle connections; servers do after about a minute, and the side that closes knows it."""


class NoApiResponse(Exception):
    """The API did not answer.

    ``request_begun``: the request may have arrived. ``is_our_fault``: the configured URL or its TLS is wrong.
    """

    def __init__(self, text: str, *, request_begun: bool, is_our_fault: bool = False) -> None:
        super().__init__(text)
        self.request_begun = request_begun
        self.is_our_fault = is_our_fault


class ApiSession:
    """The pooled HTTP connections to one provider."""

    def __init__(self, provider: Provider, timeout: float) -> None:
        self._timeout = timeout
        tracing = aiohttp.TraceConfig(SimpleNamespace)
        tracing.on_request_headers_sent.append(_on_headers_sent)
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

    async def request(self, request: ApiRequest, commit: Callable[[], None] | None = None) -> ApiResponse:
        """Send a request and return the response; ``commit`` is called right before the request is sent.

        Raises NoApiResponse, and what ``commit`` raises.
        """
        progress = _RequestProgress(commit)
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.request(
                    request.method,
                    request.url,
                    data=request.body or None,
                    headers=request.headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                    trace_request_ctx=progress,
                ) as response,
            ):
                headers = {name.lower(): value for name, value in response.headers.items()}
                body, _ = await read_bounded(response, MAX_RESPONSE_BYTES)
                return ApiResponse(response.status, headers, body, received_at=wall_clock())
        except TimeoutError as error:
            raise NoApiResponse(f"no answer within {self._timeout:g} s", request_begun=progress.begun) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            is_our_fault = isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL)
            raise NoApiResponse(
                f"{type(error).__name__}: {error}", request_begun=progress.begun, is_our_fault=is_our_fault
            ) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


class _RequestProgress:
    def __init__(self, commit: Callable[[], None] | None) -> None:
        self._commit = commit
        self.begun = False

    def begin(self) -> None:
        if self._commit is not None and not self.begun:
            self._commit()
        self.begun = True


async def _on_headers_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
    """Mark the request as begun; aiohttp calls this once it has a connection, before it sends the first byte."""
    context.trace_request_ctx.begin()
