"""SMTP of a server that only takes what comes back: a session in, messages handed on, each answered when it is durable.

No relay: one recipient per message, and only addresses of ours.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiosmtpd.smtp import SMTP, Envelope, Session

from pipeline.gateway.smtp.connection_limits import SmtpConnectionLimits
from pipeline.gateway.smtp.envelope import MESSAGE_KEPT_BYTES, is_accepted_address, is_in_mail_domain
from pipeline.gateway.smtp.recorder import InboundMailResult
from pipeline.webhooks.base import TokenReaders

IDLE_TIMEOUT_S: Final = 120.0
"""Until a silent client is let go (RFC 5321 §4.5.3.2 asks senders for patience, not us)."""
DATA_TIMEOUT_S: Final = 300.0
SESSION_MAX_S: Final = 1_800.0
"""However busily a client passes the time."""
MAX_CALLS_PER_COMMAND: Final = 500
"""Of one kind in a session: a provider's relay brings many messages on one connection."""
log = logging.getLogger(__name__)

MessageHandler = Callable[[bytes, int, str, str], Awaitable[InboundMailResult]]
"""A message's head, its whole size, recipient and sender; what became of it."""
REPLY_BY_RESULT: Final = {
    InboundMailResult.DURABLE: "250 2.0.0 Kept",
    InboundMailResult.UNCONFIRMED: "451 4.3.0 Can't be kept right now, try again later",
    InboundMailResult.NOT_OURS: "550 5.7.1 Only reports about mail that we sent are read here",
}


@dataclass(slots=True)
class SmtpSessionContext:
    """What every session of a listener goes by."""

    domain: str
    proofs: TokenReaders
    size_max: int
    limits: SmtpConnectionLimits
    take: MessageHandler
    count: Callable[[str], None]
    """Called with what became of a message or connection."""
    tls: Callable[[], ssl.SSLContext | None]
    sessions: set["InboundSmtpSession"] = field(default_factory=set)


class SmtpHandler:
    """What aiosmtpd asks about the steps of a session."""

    def __init__(self, terms: SmtpSessionContext) -> None:
        self._terms = terms

    async def handle_EHLO(  # noqa: N802  aiosmtpd names its hooks for SMTP's verbs
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer neither AUTH, for nobody has an account here, nor HELP."""
        session.host_name = hostname
        offered = [line for line in responses if not line[4:].startswith(("AUTH", "HELP"))]
        return [*offered, "250 ENHANCEDSTATUSCODES"]

    async def handle_MAIL(  # noqa: N802  likewise
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Anybody may write, and the null sender is who mostly does."""
        if not self._terms.limits.admit_message(_host(session.peer)):
            self._terms.count("limited")
            return "450 4.7.1 Too much at once from you, try again later"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802  likewise
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Only what comes back to an address of ours."""
        if not is_in_mail_domain(address, self._terms.domain):
            self._terms.count("refused")
            return "550 5.7.1 We relay nothing"
        if not is_accepted_address(address, self._terms.domain, self._terms.proofs):
            self._terms.count("refused")
            return "550 5.1.1 No such address"
        if envelope.rcpt_tos:
            return "452 4.5.3 One recipient at a time"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_exception(self, error: Exception) -> str:
        """Nothing of the client's words goes into the log."""
        log.error("an SMTP command could not be handled: %s", type(error).__name__)
        return "451 4.3.0 An error of ours, try again later"


class InboundSmtpSession(SMTP):
    """One connection."""

    def __init__(self, terms: SmtpSessionContext, hostname: str) -> None:
        super().__init__(
            SmtpHandler(terms),
            data_size_limit=terms.size_max,
            enable_SMTPUTF8=True,
            hostname=hostname,
            ident="Mailfold",
            tls_context=terms.tls(),
            timeout=IDLE_TIMEOUT_S,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            command_call_limit=MAX_CALLS_PER_COMMAND,
            loop=asyncio.get_running_loop(),
        )
        self._terms = terms
        self._peer = ""
        self._inside = False
        self._end: asyncio.TimerHandle | None = None
        self.is_receiving = False
        """Whether a message is on its way: its sender should be told what became of it."""

    # ------------------------------------------------------------ the connection
    def connection_made(self, transport: Any) -> None:
        """Let it in, or say why not. Called a second time when TLS is set up."""
        if not self._inside:
            self._peer = _host(transport.get_extra_info("peername"))
            if not self._terms.limits.admit(self._peer):
                self._terms.count("turned_away")
                transport.write(b"421 4.7.0 Too many connections, try again later\r\n")
                transport.close()
                return
            self._inside = True
            self._terms.sessions.add(self)
            self._end = self.loop.call_later(SESSION_MAX_S, self.hang_up)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Make room."""
        if not self._inside:
            return
        self._terms.limits.leave(self._peer)
        self._terms.sessions.discard(self)
        self._inside = False
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(error)

    def eof_received(self) -> bool | None:
        """Nothing more will come."""
        return bool(super().eof_received()) if self._inside else False

    def hang_up(self) -> None:
        """End it, whatever it is doing."""
        if self.transport is not None:
            self.transport.close()

    # ------------------------------------------------------------ the message
    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802  aiosmtpd's name
        """Take a message: its head is kept, the rest counted, so that nobody's size is our memory.

        Unlike aiosmtpd's own, lines may be of any length: reports come from old programs, too.
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
            head, size = await self._message()
            answer = "552 5.3.4 Too large" if size > self._terms.size_max else await self._kept(head, size)
            self._set_post_data_state()  # type: ignore[no-untyped-call]
            await self.push(answer)
        finally:
            self.is_receiving = False

    async def _kept(self, head: bytes, size: int) -> str:
        assert self.envelope is not None
        receipt = await self._terms.take(head, size, self.envelope.rcpt_tos[0], self.envelope.mail_from or "<>")
        return REPLY_BY_RESULT[receipt]

    async def _message(self) -> tuple[bytes, int]:
        """Up to the dot on a line of its own; only CRLF ends a line, so that nothing can be smuggled past it."""
        head, size, fresh = bytearray(), 0, True
        while (piece := await self._piece()) != b".\r\n" or not fresh:
            if fresh and piece.startswith(b"."):
                piece = piece[1:]
            fresh = piece.endswith(b"\r\n")
            size += len(piece)
            if size > 2 * self._terms.size_max:
                # It was told our limit, and goes on and on.
                self.hang_up()
                raise asyncio.CancelledError
            head += piece[: max(0, MESSAGE_KEPT_BYTES + 1 - len(head))]
        return bytes(head), size

    async def _piece(self) -> bytes:
        try:
            return bytes(await self._reader.readuntil(b"\r\n"))
        except asyncio.LimitOverrunError as long:
            return bytes(await self._reader.read(long.consumed))


def _host(peer: Any) -> str:
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
