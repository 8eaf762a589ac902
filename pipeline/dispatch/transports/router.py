"""Every way there is to hand a mail over, behind one port: by its provider's row, SMTP or an API."""

import asyncio
from collections.abc import Callable

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.dispatch.transports.batcher import Batches
from pipeline.dispatch.transports.registry import APIS, MANY, lacking, unspeakable
from pipeline.dispatch.transports.smtp import Postman
from pipeline.dispatch.transports.throttle import Desk
from pipeline.jobs.job import Lane
from topics.record import Millis


class Fleet:
    """A carrier for every provider."""

    def __init__(self, *, timeout: float, local_hostname: str, clock: Callable[[], Millis]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._postman = Postman(timeout=timeout, local_hostname=local_hostname)
        self._desks: dict[Provider, Desk] = {}
        self._batches: dict[Provider, Batches] = {}

    def takes_mime(self, provider: Provider) -> bool:
        """SMTP does, and some APIs do."""
        return provider.via == "smtp" or (provider.kind in APIS and APIS[provider.kind].MIME)

    async def send(self, provider: Provider, mail: Mail) -> Answer:
        """Hand one mail over. Raises only what ``mail.commit`` does."""
        if reason := lacking(provider):
            return Answer(Meaning.MISCONFIGURED, 0, reason, Lane.BROKEN)
        if provider.via == "smtp":
            return await self._postman.send(provider, mail)
        if reason := unspeakable(provider, mail):
            return Answer(Meaning.REFUSED, 0, reason, Lane.SILENT)
        if provider.kind in MANY:
            return await self._gathering(provider).send(mail)
        return await self._desk(provider).send(mail)

    def _desk(self, provider: Provider) -> Desk:
        if provider not in self._desks:
            self._desks[provider] = Desk(provider, APIS[provider.kind], self._timeout, self._clock)
        return self._desks[provider]

    def _gathering(self, provider: Provider) -> Batches:
        if provider not in self._batches:
            self._batches[provider] = Batches(provider, MANY[provider.kind], self._desk(provider))
        return self._batches[provider]

    def tidy(self) -> None:
        """Close what was idle for too long; connections to APIs see to themselves."""
        self._postman.tidy()

    async def close(self) -> None:
        """Let everything go, within a second or two."""
        await asyncio.gather(*(batches.close() for batches in self._batches.values()))
        await asyncio.gather(self._postman.close(), *(desk.close() for desk in self._desks.values()))
