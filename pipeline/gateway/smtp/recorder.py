"""Recording of inbound messages: each is appended to the log as it is, if it refers to an email of ours.

The SMTP listener and the route `POST /inbound/mail` call it.
"""

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
    """The result of recording a message."""

    DURABLE = "durable"
    UNCONFIRMED = "unconfirmed"
    """It may or may not be on the log; the sender has to send it again."""
    NOT_OURS = "refused"
    """Neither its address nor its text contains a tag that we signed, so it could not be attributed to an email."""


class InboundMailRecorder:
    """Appends inbound mail to the log and counts it by channel and result."""

    def __init__(self, log: Log, clock: Clock, token_readers: TokenReaders, registry: CollectorRegistry) -> None:
        self.token_readers = token_readers
        self._log = log
        self._clock = clock
        self._scan_lock = asyncio.Lock()
        self._mails = Counter(
            "mailfold_inbound_mails",
            "Inbound mail, by road (smtp, http) and result: signed, unsigned (not its address, but its text has a "
            "signature of ours), unconfirmed, refused (neither has one), limited, turned_away.",
            ["road", "result"],
            registry=registry,
        )
        self._connections = Gauge("mailfold_inbound_connections", "SMTP connections open now.", registry=registry)

    def count(self, channel: str, result: str) -> None:
        """Count one message or connection."""
        self._mails.labels(channel, result).inc()

    def watch_connections(self, open_connections: Callable[[], int]) -> None:
        """Set the function that returns the number of open SMTP connections for the metrics."""
        self._connections.set_function(open_connections)

    async def record_smtp(self, head: bytes, size: int, to: str, sender: str) -> InboundMailResult:
        """Record a message from SMTP; the arguments are those of :data:`pipeline.gateway.smtp.session.MessageHandler`.

        Append it only if it refers to an email of ours.
        """
        return await self.record("smtp", mail_record(head, self._clock(), to=to, sender=sender, size=size), to)

    async def record(self, channel: str, mail: RawWebhook, to: str) -> InboundMailResult:
        """Append the message if the address ``to`` or its text contains a tag that we signed."""
        is_signed = is_signed_address(to, self.token_readers)
        if not is_signed and not await self._has_own_tag(mail.body):
            self.count(channel, InboundMailResult.NOT_OURS.value)
            return InboundMailResult.NOT_OURS
        positions = await self._log.append([LogEntry(PROVIDER_WEBHOOKS, None, mail)])
        self.count(channel, "unconfirmed" if None in positions else "signed" if is_signed else UNSIGNED_RESULT)
        return InboundMailResult.UNCONFIRMED if None in positions else InboundMailResult.DURABLE

    async def _has_own_tag(self, message: bytes) -> bool:
        """Search the message for a tag of ours in a thread.

        One message at a time, because each search holds the interpreter's lock for up to 20 ms.
        """
        async with self._scan_lock:
            return await asyncio.to_thread(has_own_tag, message, self.token_readers)
