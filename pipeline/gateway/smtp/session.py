"""The SMTP session of a server that accepts only mail to our own addresses; the listener creates one per connection.

It relays nothing and takes one recipient per message. A message is answered 250 only when it is on the log.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiosmtpd.smtp import SMTP, Envelope, Session

from pipeline.gateway.smtp.connection_limits import SmtpConnectionLimits
from pipeline.gateway.smtp.envelope import MESSAGE_KEPT_BYTES, is_accepted_address, is_in_mail_domain
from pipeline.gateway.smtp.recorder import InboundMailResult
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.smtp_data import EndlessMessage, read_message
from pipeline.webhooks.base import TokenReaders

IDLE_TIMEOUT_S: Final = 120.0
"""Seconds until a silent client is disconnected; RFC 5321 §4.5.3.2 recommends longer timeouts to clients only."""
DATA_TIMEOUT_S: Final = 300.0
SESSION_MAX_S: Final = 1_800.0
"""Seconds until a session is ended, even if its client is active."""
MAX_CALLS_PER_COMMAND: Final = 500
"""Calls of one command per session; high, because a provider's relay sends many messages on one connection."""
log = get_logger(__name__)

MessageHandler = Callable[[bytes, int, str, str], Awaitable[InboundMailResult]]
"""Records a message, given its first bytes, its whole size, recipient and sender; returns the result."""
REPLY_BY_RESULT: Final = {
    InboundMailResult.DURABLE: "250 2.0.0 Kept",
    InboundMailResult.UNCONFIRMED: "451 4.3.0 Can't be kept right now, try again later",
    InboundMailResult.NOT_OURS: "550 5.7.1 Only reports about mail that we sent are read here",
}


@dataclass(slots=True)
class SmtpSessionContext:
    """The configuration and state that all sessions of a listener share."""

    domain: str
    token_readers: TokenReaders
    max_bytes: int
    """The largest message that is accepted."""
    limits: SmtpConnectionLimits
    handle_message: MessageHandler
    count: Callable[[str], None]
    """Called with the result for a message or connection."""
    tls: Callable[[], ssl.SSLContext | None]
    sessions: set["InboundSmtpSession"] = field(default_factory=set)


class SmtpHandler:
    """The hooks that aiosmtpd calls for SMTP commands; each returns the reply."""

    def __init__(self, context: SmtpSessionContext) -> None:
        self._context = context

    async def handle_EHLO(  # noqa: N802  aiosmtpd names its hooks for SMTP's verbs
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer aiosmtpd's extensions without HELP and AUTH, because senders have no accounts here."""
        session.host_name = hostname
        extensions = [line for line in responses if not line[4:].startswith(("AUTH", "HELP"))]
        return [*extensions, "250 ENHANCEDSTATUSCODES"]

    async def handle_MAIL(  # noqa: N802  likewise
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept any sender within the rate limit; bounces come from the null sender."""
        if not self._context.limits.admit_message(_host(session.peer)):
            self._context.count("limited")
            return "450 4.7.1 Too much at once from you, try again later"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802  likewise
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Accept one recipient, which must be an address of ours."""
        if not is_in_mail_domain(address, self._context.domain):
            self._context.count("refused")
            return "550 5.7.1 We relay nothing"
        if not is_accepted_address(address, self._context.domain, self._context.token_readers):
            self._context.count("refused")
            return "550 5.1.1 No such address"
        if envelope.rcpt_tos:
            return "452 4.5.3 One recipient at a time"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_exception(self, error: Exception) -> str:
        """Log an unexpected error by its type alone, because its text may contain what the client sent."""
        log.error("SMTP command failed", error=type(error).__name__)
        return "451 4.3.0 An error of ours, try again later"


class InboundSmtpSession(SMTP):
    """One client's connection."""

    def __init__(self, context: SmtpSessionContext, hostname: str) -> None:
        super().__init__(
            SmtpHandler(context),
            data_size_limit=context.max_bytes,
            enable_SMTPUTF8=True,
            hostname=hostname,
            ident="Mailfold",
            tls_context=context.tls(),
            timeout=IDLE_TIMEOUT_S,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            command_call_limit=MAX_CALLS_PER_COMMAND,
            loop=asyncio.get_running_loop(),
        )
        self._context = context
        self._peer = ""
        self._is_admitted = False
        self._end_timer: asyncio.TimerHandle | None = None
        self.is_receiving = False
        """A message is being received and its sender waits for the answer."""

    # ------------------------------------------------------------ the connection
    def connection_made(self, transport: Any) -> None:
        """Admit the connection, or answer 421 and close it. Called a second time when TLS is set up."""
        if not self._is_admitted:
            self._peer = _host(transport.get_extra_info("peername"))
            if not self._context.limits.admit(self._peer):
                self._context.count("turned_away")
                transport.write(b"421 4.7.0 Too many connections, try again later\r\n")
                transport.close()
                return
            self._is_admitted = True
            self._context.sessions.add(self)
            self._end_timer = self.loop.call_later(SESSION_MAX_S, self.hang_up)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Count the connection out and stop its timer."""
        if not self._is_admitted:
            return
        self._context.limits.leave(self._peer)
        self._context.sessions.discard(self)
        self._is_admitted = False
        if self._end_timer is not None:
            self._end_timer.cancel()
        super().connection_lost(error)

    def eof_received(self) -> bool | None:
        """Handle the client's end of stream, unless the connection was never admitted."""
        return bool(super().eof_received()) if self._is_admitted else False

    def hang_up(self) -> None:
        """Close the connection, even while a message is being received."""
        if self.transport is not None:
            self.transport.close()

    # ------------------------------------------------------------ the message
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802  aiosmtpd's name
        """Receive a message, record it and answer.

        Only its first bytes are kept in memory; the rest is counted. Lines may be of any length, unlike in aiosmtpd's
        own method, because old programs send such reports.
        """
        assert self.envelope is not None
        if not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        self.is_receiving = True
        try:
            await self.push("354 End data with <CR><LF>.<CR><LF>")
            self._reset_timeout(DATA_TIMEOUT_S)
            head, size = await self._receive_message()
            reply = "552 5.3.4 Too large" if size > self._context.max_bytes else await self._record(head, size)
            self._set_post_data_state()  # type: ignore[no-untyped-call]
            await self.push(reply)
        finally:
            self.is_receiving = False

    async def _record(self, head: bytes, size: int) -> str:
        """Record the message and return the reply."""
        assert self.envelope is not None
        sender = self.envelope.mail_from or "<>"
        result = await self._context.handle_message(head, size, self.envelope.rcpt_tos[0], sender)
        return REPLY_BY_RESULT[result]

    async def _receive_message(self) -> tuple[bytes, int]:
        """Return the message's first bytes and its whole size."""
        try:
            return await read_message(
                self._reader, max_kept_bytes=MESSAGE_KEPT_BYTES + 1, max_bytes=2 * self._context.max_bytes
            )
        except EndlessMessage:
            # The client ignores the limit that the reply to EHLO named.
            self.hang_up()
            raise asyncio.CancelledError from None


def _host(peer: Any) -> str:
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
