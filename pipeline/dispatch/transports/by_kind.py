"""Send each email over the transport that its provider's row names: SMTP or an API. Used by `mailfold dispatch`."""

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
    """The transport of all providers; it keeps a client for each."""

    def __init__(self, *, timeout: float, local_hostname: str, clock: Callable[[], Millis]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._smtp = SmtpTransport(timeout=timeout, local_hostname=local_hostname)
        self._clients: dict[Provider, RateLimitedClient] = {}
        self._batchers: dict[Provider, MailBatcher] = {}

    def takes_mime(self, provider: Provider) -> bool:
        """Return whether this provider needs the MIME message: SMTP does, and some APIs do."""
        return provider.via == "smtp" or (provider.kind in APIS and APIS[provider.kind].TAKES_MIME)

    async def send(self, provider: Provider, mail: OutgoingEmail) -> SendResult:
        """Send one email. Raises only what ``mail.commit`` raises."""
        if reason := configuration_problem(provider):
            return SendResult(SendOutcome.MISCONFIGURED, 0, reason, EndpointHealth.BROKEN)
        if provider.via == "smtp":
            return await self._smtp.send(provider, mail)
        if reason := address_problem(provider, mail):
            return SendResult(SendOutcome.REFUSED, 0, reason, EndpointHealth.SILENT)
        if provider.kind in BATCH_APIS:
            return await self._batcher(provider).send(mail)
        return await self._client(provider).send(mail)

    def _client(self, provider: Provider) -> RateLimitedClient:
        if provider not in self._clients:
            self._clients[provider] = RateLimitedClient(provider, APIS[provider.kind], self._timeout, self._clock)
        return self._clients[provider]

    def _batcher(self, provider: Provider) -> MailBatcher:
        if provider not in self._batchers:
            self._batchers[provider] = MailBatcher(provider, BATCH_APIS[provider.kind], self._client(provider))
        return self._batchers[provider]

    def close_idle(self) -> None:
        """Close SMTP connections that were idle for too long; aiohttp closes those to APIs by itself."""
        self._smtp.close_idle()

    async def close(self) -> None:
        """Close all connections, within a second or two."""
        await asyncio.gather(*(batcher.close() for batcher in self._batchers.values()))
        await asyncio.gather(self._smtp.close(), *(client.close() for client in self._clients.values()))
