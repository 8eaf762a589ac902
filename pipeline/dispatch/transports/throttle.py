"""One provider's mails in, handed to its API at the pace it bears, answers out."""

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
"""Seconds that a provider may ask us to wait without giving the mail back: what is about pace, not about quotas."""
DEFAULT_WAIT_S: Final = 1.0
"""Seconds that we wait where it doesn't say how long."""
MAX_TRIES: Final = 3
HTTP_TOO_MANY_REQUESTS: Final = 429

CommitCallback = Callable[[], None]


class RateLimitedClient:
    """Asks one provider's API, never more at once than its row allows."""

    def __init__(self, provider: Provider, api: ProviderApi, timeout: float, clock: Callable[[], Millis]) -> None:
        self._provider = provider
        self._api = api
        self._clock = clock
        self._line = ApiSession(provider, timeout)
        self._slots = asyncio.Semaphore(provider.max_connections)
        self._not_before = 0.0

    async def send(self, mail: OutgoingEmail) -> SendResult:
        """One mail, one request."""
        answers = await self.request(
            lambda: self._api.message_request(self._provider, mail, self._clock()),
            mail.commit,
            lambda reply: [self._api.message_result(reply)],
        )
        return answers[0] if answers else SendResult(SendOutcome.UNKNOWN, 0, "no answer", EndpointHealth.FAILING)

    async def request(
        self,
        made: Callable[[], ApiRequest],
        commit: CommitCallback,
        read: Callable[[ApiResponse], Sequence[SendResult] | None],
    ) -> Sequence[SendResult] | None:
        """Ask, at its pace and again where that is safe; what ``read`` makes of the reply, or one answer for all."""
        async with self._slots:
            for left in reversed(range(MAX_TRIES)):
                await self._wait()
                answers = await self._once(made, commit, read)
                first = answers[0] if answers else None
                if first is None or not left or not self._again(first):
                    break
        return answers

    async def _once(
        self,
        made: Callable[[], ApiRequest],
        commit: CommitCallback,
        read: Callable[[ApiResponse], Sequence[SendResult] | None],
    ) -> Sequence[SendResult] | None:
        try:
            return read(await self._line.request(made(), commit))
        except Refused as error:
            return [SendResult(SendOutcome.REFUSED, 0, str(error), EndpointHealth.SILENT)]
        except NoApiResponse as error:
            return [_silence(error)]

    def _again(self, answer: SendResult) -> bool:
        """Whether to ask once more at once; sets the pace for everybody."""
        if answer.code == HTTP_TOO_MANY_REQUESTS and answer.retry_after_s <= MAX_INLINE_WAIT_S:
            self._not_before = _now() + (answer.retry_after_s or DEFAULT_WAIT_S)
            return True
        if answer.outcome is SendOutcome.UNKNOWN and self._api.IS_IDEMPOTENT:
            self._not_before = _now() + DEFAULT_WAIT_S
            return True
        return False

    async def _wait(self) -> None:
        while (left := self._not_before - _now()) > 0:
            await asyncio.sleep(left)

    async def close(self) -> None:
        """Close its connections."""
        await self._line.close()


def _silence(error: NoApiResponse) -> SendResult:
    if error.is_our_fault:
        return SendResult(SendOutcome.MISCONFIGURED, 0, str(error), EndpointHealth.BROKEN)
    return SendResult(
        SendOutcome.UNKNOWN if error.request_begun else SendOutcome.LATER, 0, str(error), EndpointHealth.FAILING
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
