"""A message from any road in; on the log as it is, counted by road and by what became of it, out."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.gateway.smtp.claims import has_own_tag, is_signed_address
from pipeline.gateway.smtp.envelope import mail_record
from pipeline.runtime.ports import Clock, Log, LogEntry
from pipeline.webhooks.base import TokenReaders
from topics.registry import PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook

UNSIGNED_RESULT: Final = "unsigned"


class InboundMailResult(Enum):
    """What became of a message that was handed over."""

    DURABLE = "durable"
    UNCONFIRMED = "unconfirmed"
    """It may or may not be on the log: it has to come again."""
    NOT_OURS = "refused"
    """Neither its address nor anything in it bears a tag of ours: nobody would understand it."""


class InboundMailRecorder:
    """Puts inbound mail on the log."""

    def __init__(self, log: Log, clock: Clock, proofs: TokenReaders, registry: CollectorRegistry) -> None:
        self.proofs = proofs
        self._log = log
        self._clock = clock
        self._scanning = asyncio.Lock()
        self._mails = Counter(
            "mailfold_inbound_mails",
            "Inbound mail, by road and by what became of it: signed, unsigned (its address bears no signature of ours: "
            "the message does), unconfirmed, refused (neither does), limited, turned_away.",
            ["road", "result"],
            registry=registry,
        )
        self._connections = Gauge("mailfold_inbound_connections", "SMTP connections open now.", registry=registry)

    def count(self, road: str, result: str) -> None:
        """One more."""
        self._mails.labels(road, result).inc()

    def watch_connections(self, connections: Callable[[], int]) -> None:
        """Ask this for the number of connections, whenever somebody wants to know."""
        self._connections.set_function(connections)

    async def record_smtp(self, head: bytes, size: int, to: str, sender: str) -> InboundMailResult:
        """See :data:`pipeline.gateway.smtp.session.Take`."""
        return await self.record("smtp", mail_record(head, self._clock(), to=to, sender=sender, size=size), to)

    async def _is_claimed(self, message: bytes) -> bool:
        """One message after the other: a thread holds the interpreter while it searches, up to 20 ms for each."""
        async with self._scanning:
            return await asyncio.to_thread(has_own_tag, message, self.proofs)

    async def record(self, road: str, mail: RawWebhook, to: str) -> InboundMailResult:
        """Append the message, if its address or its text bears a tag of ours."""
        signed = is_signed_address(to, self.proofs)
        if not signed and not await self._is_claimed(mail.body):
            self.count(road, InboundMailResult.NOT_OURS.value)
            return InboundMailResult.NOT_OURS
        places = await self._log.append([LogEntry(PROVIDER_WEBHOOKS, None, mail)])
        self.count(road, "unconfirmed" if None in places else "signed" if signed else UNSIGNED_RESULT)
        return InboundMailResult.UNCONFIRMED if None in places else InboundMailResult.DURABLE
