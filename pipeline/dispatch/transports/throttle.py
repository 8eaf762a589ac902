"""Send emails to a provider's API at the rate that it allows. Called by the transport router and the batcher."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import ApiRequest, ApiResponse, ProviderApi
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.http_client import ApiSession, NoApiResponse
from pipeline.errors import Refused
from pipeline.jobs.job import EndpointHealth
from topics.record import Millis

MAX_INLINE_WAIT_S: Final = 5.0
"""Longest Retry-After of a 429, in seconds, that is waited for here; after a longer one the job is retried later."""
DEFAULT_WAIT_S: Final = 1.0
"""Seconds to wait if the provider does not say how long."""
MAX_TRIES: Final = 3
HTTP_TOO_MANY_REQUESTS: Final = 429

CommitCallback = Callable[[], None]


class RateLimitedClient:
    """Client of one provider's API that limits the requests in flight and waits when the provider asks for it."""

    def __init__(self, provider: Provider, api: ProviderApi, timeout: float, clock: Callable[[], Millis]) -> None:
        self._provider = provider
        self._api = api
        self._clock = clock
        self._session = ApiSession(provider, timeout)
        self._slots = asyncio.Semaphore(provider.max_connections)
        self._not_before = 0.0

    async def send(self, mail: OutgoingEmail) -> SendResult:
        """Send one email with one request."""
        results = await self.request(
            lambda: self._api.message_request(self._provider, mail, self._clock()),
            mail.commit,
            lambda reply: [self._api.message_result(reply)],
        )
        return results[0] if results else SendResult(SendOutcome.UNKNOWN, 0, "no answer", EndpointHealth.FAILING)

    async def request(
        self,
        build_request: Callable[[], ApiRequest],
        commit: CommitCallback,
        read: Callable[[ApiResponse], Sequence[SendResult] | None],
    ) -> Sequence[SendResult] | None:
        """Send a request, and repeat it where that is safe.

        ``commit`` is called right before each request is sent. Returns what ``read`` makes of the reply or, if there
        was none, one result that applies to all emails of the request.
        """
        async with self._slots:
            for tries_left in reversed(range(MAX_TRIES)):
                await self._wait()
                results = await self._request_once(build_request, commit, read)
                first = results[0] if results else None
                if first is None or not tries_left or not self._schedule_repeat(first):
                    break
        return results

    async def _request_once(
        self,
        build_request: Callable[[], ApiRequest],
        commit: CommitCallback,
        read: Callable[[ApiResponse], Sequence[SendResult] | None],
    ) -> Sequence[SendResult] | None:
        try:
            return read(await self._session.request(build_request(), commit))
        except Refused as error:
            return [SendResult(SendOutcome.REFUSED, 0, str(error), EndpointHealth.SILENT)]
        except NoApiResponse as error:
            return [_no_response_result(error)]

    def _schedule_repeat(self, result: SendResult) -> bool:
        """Return whether to repeat the request; if so, delay it and all other requests to this provider."""
        if result.code == HTTP_TOO_MANY_REQUESTS and result.retry_after_s <= MAX_INLINE_WAIT_S:
            self._not_before = _now() + (result.retry_after_s or DEFAULT_WAIT_S)
            return True
        if result.outcome is SendOutcome.UNKNOWN and self._api.IS_IDEMPOTENT:
            self._not_before = _now() + DEFAULT_WAIT_S
            return True
        return False

    async def _wait(self) -> None:
        while (seconds := self._not_before - _now()) > 0:
            await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _no_response_result(error: NoApiResponse) -> SendResult:
    if error.is_our_fault:
        return SendResult(SendOutcome.MISCONFIGURED, 0, str(error), EndpointHealth.BROKEN)
    return SendResult(
        SendOutcome.UNKNOWN if error.request_begun else SendOutcome.LATER, 0, str(error), EndpointHealth.FAILING
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
