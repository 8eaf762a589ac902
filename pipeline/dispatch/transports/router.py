"""Every way there is to hand a mail over, behind one port: by its provider's row, SMTP or an API."""

import asyncio
from collections.abc import Callable

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.batcher import MailBatcher
from pipeline.dispatch.transports.registry import APIS, BATCH_APIS, address_problem, configuration_problem
from pipeline.dispatch.transports.smtp import SmtpTransport
from pipeline.dispatch.transports.throttle import RateLimitedClient
from pipeline.jobs.job import EndpointHealth
from topics.record import Millis


class TransportRouter:
    """A carrier for every provider."""

    def __init__(self, *, timeout: float, local_hostname: str, clock: Callable[[], Millis]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._postman = SmtpTransport(timeout=timeout, local_hostname=local_hostname)
        self._desks: dict[Provider, RateLimitedClient] = {}
        self._batches: dict[Provider, MailBatcher] = {}

    def takes_mime(self, provider: Provider) -> bool:
        """SMTP does, and some APIs do."""
        return provider.via == "smtp" or (provider.kind in APIS and APIS[provider.kind].TAKES_MIME)

    async def send(self, provider: Provider, mail: OutgoingEmail) -> SendResult:
        """Hand one mail over. Raises only what ``mail.commit`` does."""
        if reason := configuration_problem(provider):
            return SendResult(SendOutcome.MISCONFIGURED, 0, reason, EndpointHealth.BROKEN)
        if provider.via == "smtp":
            return await self._postman.send(provider, mail)
        if reason := address_problem(provider, mail):
            return SendResult(SendOutcome.REFUSED, 0, reason, EndpointHealth.SILENT)
        if provider.kind in BATCH_APIS:
            return await self._gathering(provider).send(mail)
        return await self._desk(provider).send(mail)

    def _desk(self, provider: Provider) -> RateLimitedClient:
        if provider not in self._desks:
            self._desks[provider] = RateLimitedClient(provider, APIS[provider.kind], self._timeout, self._clock)
        return self._desks[provider]

    def _gathering(self, provider: Provider) -> MailBatcher:
        if provider not in self._batches:
            self._batches[provider] = MailBatcher(provider, BATCH_APIS[provider.kind], self._desk(provider))
        return self._batches[provider]

    def close_idle(self) -> None:
        """Close what was idle for too long; connections to APIs see to themselves."""
        self._postman.close_idle()

    async def close(self) -> None:
        """Let everything go, within a second or two."""
        await asyncio.gather(*(batches.close() for batches in self._batches.values()))
        await asyncio.gather(self._postman.close(), *(desk.close() for desk in self._desks.values()))
