"""Send emails over pooled SMTP connections, with one deadline per conversation. Called by the transport router.

Errors of servers and networks are never raised: the :class:`SendResult` says at which stage the conversation ended.
"""

import asyncio
import contextlib
import functools
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import aiosmtplib

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendResult
from pipeline.dispatch.transports.smtp_envelope import ConversationProgress, send_envelope
from pipeline.dispatch.transports.smtp_pipelining import PipeliningProtocol
from pipeline.dispatch.transports.smtp_replies import SmtpStage, smtp_result
from pipeline.runtime.observing.logs import get_logger

logger = get_logger(__name__)

MAX_IDLE_S: Final = 15.0
"""Seconds after which we close idle connections, before servers do (20 s to 5 min), so that we never use a dead one."""
CHECK_IDLE_AFTER_S: Final = 2.0
"""Seconds of idleness after which a connection is checked with RSET before it is used."""
QUIT_TIMEOUT_S: Final = 1.0


class _ConversationEnded(Exception):
    """The conversation ended with a result.

    ``is_stale_connection``: a pooled connection turned out to be closed before anything was sent over it.
    """

    def __init__(self, result: SendResult, *, is_stale_connection: bool = False) -> None:
        super().__init__(result.text)
        self.result = result
        self.is_stale_connection = is_stale_connection


@dataclass(slots=True)
class _IdleConnection:
    connection: aiosmtplib.SMTP
    since: float


class _ConnectionPool:
    """The connections to one provider: limited in number, the most recently used one first."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.slots = asyncio.Semaphore(provider.max_connections)
        self.idle: list[_IdleConnection] = []
        self.quitting: set[asyncio.Task[None]] = set()

    async def acquire(self) -> aiosmtplib.SMTP | None:
        """Return an idle connection that works; None if there is none."""
        while self.idle:
            idle = self.idle.pop()
            age = _now() - idle.since
            is_open = age < MAX_IDLE_S and idle.connection.is_connected
            if is_open and (age < CHECK_IDLE_AFTER_S or await _reset(idle.connection)):
                return idle.connection
            idle.connection.close()
        return None

    def release(self, connection: aiosmtplib.SMTP) -> None:
        if connection.is_connected:
            self.idle.append(_IdleConnection(connection, _now()))

    def close_idle(self, min_age: float = MAX_IDLE_S) -> None:
        """Close connections that were idle for at least ``min_age`` seconds, each with QUIT in a task of its own."""
        for idle in [idle for idle in self.idle if _now() - idle.since >= min_age]:
            self.idle.remove(idle)
            task = asyncio.create_task(_quit(idle.connection))
            self.quitting.add(task)
            task.add_done_callback(self.quitting.discard)


class SmtpTransport:
    """The transport for SMTP; it keeps a pool of connections for each provider."""

    def __init__(self, *, timeout: float, local_hostname: str) -> None:
        self._timeout = timeout
        self._local_hostname = local_hostname
        self._pools: dict[Provider, _ConnectionPool] = {}

    def takes_mime(self, _provider: Provider) -> bool:
        """Return True: SMTP sends whole messages."""
        return True

    async def send(self, provider: Provider, mail: OutgoingEmail) -> SendResult:
        """Send one email in one SMTP conversation. Raises only what ``mail.commit`` raises."""
        pool = self._pools.setdefault(provider, _ConnectionPool(provider))
        async with pool.slots:
            progress = ConversationProgress()
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._converse(pool, progress, mail)
            except TimeoutError:
                return smtp_result(progress.stage, 0, f"no answer within {self._timeout:g} s")
            except _ConversationEnded as ended:
                return ended.result

    async def _converse(self, pool: _ConnectionPool, progress: ConversationProgress, mail: OutgoingEmail) -> SendResult:
        connection = await pool.acquire()
        if connection is not None:
            try:
                return await _send_message(pool, connection, progress, mail)
            except _ConversationEnded as ended:
                if not ended.is_stale_connection:
                    raise
        new_connection = await connect(pool.provider, self._local_hostname, progress)
        if new_connection.supports_extension("pipelining") and new_connection.is_connected:
            PipeliningProtocol.adopt(new_connection)
        try:
            return await _send_message(pool, new_connection, progress, mail)
        except _ConversationEnded as ended:
            raise _ConversationEnded(ended.result) from ended

    def close_idle(self) -> None:
        """Close connections that were idle for too long; called about once a second."""
        for pool in self._pools.values():
            pool.close_idle()

    async def close(self) -> None:
        """Close all idle connections, within a second."""
        for pool in self._pools.values():
            pool.close_idle(min_age=0.0)
            await asyncio.gather(*pool.quitting)


async def connect(
    provider: Provider, local_hostname: str, progress: ConversationProgress | None = None
) -> aiosmtplib.SMTP:
    """Return a connection on which EHLO, TLS and login are done as the provider's row says."""
    progress = progress or ConversationProgress()
    connection = _client(provider, local_hostname)
    async with _ended_as_result(connection, progress):
        await connection.connect()
        if await _secure(connection, provider, progress):
            progress.stage = SmtpStage.LOGIN
            if provider.username:
                await connection.login(provider.username, provider.password)
            return connection
    # Opportunistic TLS failed. RFC 7435 prefers plain text to no mail. Without TLS we do not log in.
    logger.warning("STARTTLS failed, sending without TLS", provider=provider.provider)
    plain_connection = _client(provider, local_hostname)
    async with _ended_as_result(plain_connection, progress):
        await plain_connection.connect()
        await plain_connection.ehlo()
    return plain_connection


@dataclass(frozen=True, slots=True)
class SmtpGreeting:
    """What a server offered before any email was sent."""

    refusal: SendResult | None = None
    """Why the connection or login failed; None if it succeeded."""
    secured: bool = False
    """Whether the connection uses TLS."""
    extensions: frozenset[str] = frozenset()
    """ESMTP extensions, in lower case."""


async def probe_server(provider: Provider, local_hostname: str, within: float) -> SmtpGreeting:
    """Connect and log in as for sending, then quit. Called by the configuration check; waits ``within`` seconds."""
    progress = ConversationProgress()
    try:
        async with asyncio.timeout(within):
            connection = await connect(provider, local_hostname, progress)
    except TimeoutError:
        return SmtpGreeting(smtp_result(progress.stage, 0, f"no answer within {within:g} s"))
    except _ConversationEnded as ended:
        return SmtpGreeting(ended.result)
    secured = connection.get_transport_info("sslcontext") is not None
    extensions = frozenset(name.lower() for name in connection.esmtp_extensions)
    await _quit(connection)
    return SmtpGreeting(None, secured, extensions)


def _client(provider: Provider, local_hostname: str) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=provider.host,
        port=provider.port,
        use_tls=provider.tls == "implicit",
        start_tls=False,
        local_hostname=local_hostname,
        tls_context=_ssl_context(verified=True) if provider.tls == "implicit" else None,
        timeout=None,  # one deadline for the whole conversation instead
    )


async def _secure(connection: aiosmtplib.SMTP, provider: Provider, progress: ConversationProgress) -> bool:
    """Start TLS as the provider's row says; return False if an opportunistic handshake failed."""
    await connection.ehlo()
    if provider.tls in ("implicit", "off"):
        return True
    progress.stage = SmtpStage.SECURE
    required = tls_required(provider)
    if not connection.supports_extension("starttls"):
        if required:
            raise _ConversationEnded(
                smtp_result(SmtpStage.SECURE, 0, "TLS is required and the server offers no STARTTLS")
            )
        return True
    try:
        await connection.starttls(tls_context=_ssl_context(verified=required))
        await connection.ehlo()
    except (ssl.SSLError, aiosmtplib.SMTPException):
        if required:
            raise
        connection.close()
        return False
    return True


def tls_required(provider: Provider) -> bool:
    """Return whether TLS is required: if the row says so, or if a password would be sent over a network.

    Opportunistic TLS can be suppressed by an attacker on the network, who could then read the password.
    """
    return provider.tls == "required" or (
        provider.tls == "opportunistic" and bool(provider.username) and not _is_loopback(provider.host)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@functools.cache
def _ssl_context(*, verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        # Encryption without a verified certificate is still better than none (RFC 7435).
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _send_message(
    pool: _ConnectionPool, connection: aiosmtplib.SMTP, progress: ConversationProgress, mail: OutgoingEmail
) -> SendResult:
    progress.stage = SmtpStage.MAIL
    async with _ended_as_result(connection, progress, pool):
        await send_envelope(connection, pool.provider, progress, mail)
        mail.commit()
        progress.stage = SmtpStage.DATA
        reply = await _send_data(connection, mail.mime_bytes)
    pool.release(connection)
    return smtp_result(SmtpStage.DATA, reply.code, reply.message)


async def _send_data(connection: aiosmtplib.SMTP, message: bytes) -> aiosmtplib.SMTPResponse:
    """Send DATA and the message; return the server's reply. Raise SMTPDataError for any but 250.

    The client's own method looks for line ends by patterns, which blocks the event loop for 7 ms per 500 kB. It is left
    to messages whose line ends are not all CRLF, which we never encode.
    """
    protocol = connection.protocol
    if protocol is None or not message.count(b"\r\n") == message.count(b"\r") == message.count(b"\n"):
        return await connection.data(message)
    reply = await connection.execute_command(b"DATA")
    if reply.code == aiosmtplib.SMTPStatus.start_input:
        last_line_end = b"" if message.endswith(b"\r\n") else b"\r\n"
        stuffed = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
        protocol.write(stuffed + last_line_end + b".\r\n")
        reply = await protocol.read_response(timeout=connection.timeout)
        if reply.code == aiosmtplib.SMTPStatus.completed:
            return reply
    raise aiosmtplib.SMTPDataError(reply.code, reply.message)


@contextlib.asynccontextmanager
async def _ended_as_result(
    connection: aiosmtplib.SMTP, progress: ConversationProgress, pool: _ConnectionPool | None = None
) -> AsyncIterator[None]:
    """Turn any error of a conversation into _ConversationEnded, and keep the connection only if it is usable."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as refusal:
        if pool is not None and refusal.code != 421 and await _reset(connection):
            pool.release(connection)
        else:
            connection.close()
        is_stale = refusal.code == 421 and progress.stage is SmtpStage.MAIL
        result = smtp_result(progress.stage, refusal.code, refusal.message)
        raise _ConversationEnded(result, is_stale_connection=is_stale) from refusal
    except (aiosmtplib.SMTPException, ssl.SSLError, OSError, UnicodeError, ValueError) as error:
        connection.close()
        is_stale = isinstance(error, aiosmtplib.SMTPServerDisconnected) and progress.stage is SmtpStage.MAIL
        result = smtp_result(progress.stage, _local_code(error), f"{type(error).__name__}: {error}")
        raise _ConversationEnded(result, is_stale_connection=is_stale) from error
    except BaseException:
        connection.close()
        raise


def _local_code(error: Exception) -> int:
    # An address that cannot be encoded for SMTP is treated as if the server had refused it.
    return 553 if isinstance(error, UnicodeError | ValueError) and not isinstance(error, ssl.SSLError) else 0


async def _reset(connection: aiosmtplib.SMTP) -> bool:
    try:
        async with asyncio.timeout(5):
            await connection.rset()
    except (aiosmtplib.SMTPException, OSError, TimeoutError):
        return False
    return True


async def _quit(connection: aiosmtplib.SMTP) -> None:
    with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(QUIT_TIMEOUT_S):
            await connection.quit()
    connection.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
