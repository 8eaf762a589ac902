"""A message and its envelope in, the server's answer out: pooled SMTP connections, one deadline per conversation.

Never raises for what a server or network does: an :class:`Answer` says how far it came.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import aiosmtplib

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendResult, SmtpEnvelope
from pipeline.dispatch.transports.smtp_replies import SmtpStage, smtp_result

logger = logging.getLogger(__name__)

MAX_IDLE_S: Final = 15.0
"""Servers close after 20 s to 5 min; whoever closes first knows it."""
CHECK_IDLE_AFTER_S: Final = 2.0
"""A connection idle for longer proves with an RSET that it lives."""
QUIT_TIMEOUT_S: Final = 1.0


class _ConversationEnded(Exception):
    """Ends a conversation with an answer; ``again``: an old connection was stale, nothing was said."""

    def __init__(self, answer: SendResult, *, again: bool = False) -> None:
        super().__init__(answer.text)
        self.answer = answer
        self.is_stale_connection = again


@dataclass(slots=True)
class _IdleConnection:
    connection: aiosmtplib.SMTP
    since: float


class _ConnectionPool:
    """One provider's connections: at most so many, the youngest used first."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.slots = asyncio.Semaphore(provider.max_connections)
        self.idle: list[_IdleConnection] = []
        self.quitting: set[asyncio.Task[None]] = set()

    async def acquire(self) -> aiosmtplib.SMTP | None:
        """A living idle connection."""
        while self.idle:
            idle = self.idle.pop()
            age = _now() - idle.since
            alive = age < MAX_IDLE_S and idle.connection.is_connected
            if alive and (age < CHECK_IDLE_AFTER_S or await _reset(idle.connection)):
                return idle.connection
            idle.connection.close()
        return None

    def release(self, connection: aiosmtplib.SMTP) -> None:
        if connection.is_connected:
            self.idle.append(_IdleConnection(connection, _now()))

    def close_idle(self, oldest: float = MAX_IDLE_S) -> None:
        """Say goodbye to connections idle for longer."""
        for idle in [idle for idle in self.idle if _now() - idle.since >= oldest]:
            self.idle.remove(idle)
            task = asyncio.create_task(_quit(idle.connection))
            self.quitting.add(task)
            task.add_done_callback(self.quitting.discard)


class SmtpTransport:
    """Hands messages to providers over pooled connections."""

    def __init__(self, *, timeout: float, local_hostname: str) -> None:
        self._timeout = timeout
        self._local_hostname = local_hostname
        self._pools: dict[Provider, _ConnectionPool] = {}

    def takes_mime(self, _provider: Provider) -> bool:
        """SMTP carries whole messages."""
        return True

    async def send(self, provider: Provider, mail: OutgoingEmail) -> SendResult:
        """One conversation. Raises only what ``mail.commit`` does."""
        pool = self._pools.setdefault(provider, _ConnectionPool(provider))
        async with pool.slots:
            steps = _ConversationProgress()
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._converse(pool, steps, mail)
            except TimeoutError:
                return smtp_result(steps.stage, 0, f"no answer within {self._timeout:g} s")
            except _ConversationEnded as ended:
                return ended.answer

    async def _converse(self, pool: _ConnectionPool, steps: "_ConversationProgress", mail: OutgoingEmail) -> SendResult:
        connection = await pool.acquire()
        if connection is not None:
            try:
                return await _deliver(pool, connection, steps, mail)
            except _ConversationEnded as stale:
                if not stale.is_stale_connection:
                    raise
        fresh = await connect(pool.provider, self._local_hostname, steps)
        try:
            return await _deliver(pool, fresh, steps, mail)
        except _ConversationEnded as ended:
            raise _ConversationEnded(ended.answer) from ended

    def close_idle(self) -> None:
        """Close what was idle for too long; called now and then."""
        for pool in self._pools.values():
            pool.close_idle()

    async def close(self) -> None:
        """Say goodbye to everybody, within a second."""
        for pool in self._pools.values():
            pool.close_idle(oldest=0.0)
            await asyncio.gather(*pool.quitting)


class _ConversationProgress:
    def __init__(self) -> None:
        self.stage = SmtpStage.CONNECT


async def connect(
    provider: Provider, local_hostname: str, steps: "_ConversationProgress | None" = None
) -> aiosmtplib.SMTP:
    """A connection, greeted, secured and logged in as the provider's row says."""
    steps = steps or _ConversationProgress()
    connection = _client(provider, local_hostname)
    async with _ended(connection, steps):
        await connection.connect()
        if await _secure(connection, provider, steps):
            steps.stage = SmtpStage.LOGIN
            if provider.username:
                await connection.login(provider.username, provider.password)
            return connection
    # Opportunistic, and the handshake failed: RFC 7435 prefers clear text to no mail; never with credentials.
    logger.warning("provider %s: its STARTTLS does not work, going on in the clear", provider.provider)
    clear = _client(provider, local_hostname)
    async with _ended(clear, steps):
        await clear.connect()
        await clear.ehlo()
    return clear


@dataclass(frozen=True, slots=True)
class SmtpGreeting:
    """How a server received us; ``refusal``: that it did not let us in."""

    refusal: SendResult | None = None
    secured: bool = False
    extensions: frozenset[str] = frozenset()


async def probe_server(provider: Provider, local_hostname: str, within: float) -> SmtpGreeting:
    """Come in as if to send, and leave."""
    steps = _ConversationProgress()
    try:
        async with asyncio.timeout(within):
            connection = await connect(provider, local_hostname, steps)
    except TimeoutError:
        return SmtpGreeting(smtp_result(steps.stage, 0, f"no answer within {within:g} s"))
    except _ConversationEnded as ended:
        return SmtpGreeting(ended.answer)
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
        tls_context=_context(verified=True) if provider.tls == "implicit" else None,
        timeout=None,  # one deadline for the whole conversation instead
    )


async def _secure(connection: aiosmtplib.SMTP, provider: Provider, steps: "_ConversationProgress") -> bool:
    """TLS as wanted; False where an opportunistic handshake failed."""
    await connection.ehlo()
    if provider.tls in ("implicit", "off"):
        return True
    steps.stage = SmtpStage.SECURE
    required = tls_required(provider)
    if not connection.supports_extension("starttls"):
        if required:
            raise _ConversationEnded(
                smtp_result(SmtpStage.SECURE, 0, "TLS is required and the server offers no STARTTLS")
            )
        return True
    try:
        await connection.starttls(tls_context=_context(verified=required))
        await connection.ehlo()
    except (ssl.SSLError, aiosmtplib.SMTPException):
        if required:
            raise
        connection.close()
        return False
    return True


def tls_required(provider: Provider) -> bool:
    """``required``, and where a password would go over a network: opportunistic would tell it to whoever listens."""
    return provider.tls == "required" or (
        provider.tls == "opportunistic" and bool(provider.username) and not _loopback(provider.host)
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@functools.cache
def _context(*, verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        # Without a certificate that we could hold it to, encryption is still better than none (RFC 7435).
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _deliver(
    pool: _ConnectionPool, connection: aiosmtplib.SMTP, steps: "_ConversationProgress", mail: OutgoingEmail
) -> SendResult:
    steps.stage = SmtpStage.MAIL
    async with _ended(connection, steps, pool):
        encoding = "utf-8" if mail.envelope.utf8 else "ascii"
        dsn = _reports(connection, pool.provider, mail.envelope)
        options = [*_options(connection, mail), *dsn.mail]
        await connection.mail(mail.envelope.sender, options=options, encoding=encoding)
        steps.stage = SmtpStage.RCPT
        await connection.rcpt(mail.envelope.recipient, options=dsn.rcpt, encoding=encoding)
        mail.commit()
        steps.stage = SmtpStage.DATA
        reply = await connection.data(mail.message)
    pool.release(connection)
    return smtp_result(SmtpStage.DATA, reply.code, reply.message)


def _options(connection: aiosmtplib.SMTP, mail: OutgoingEmail) -> list[str]:
    options = [f"SIZE={len(mail.message)}"] if connection.supports_extension("size") else []
    if mail.envelope.utf8:
        if not connection.supports_extension("smtputf8"):
            raise aiosmtplib.SMTPSenderRefused(553, "5.6.7 the server takes no address that needs SMTPUTF8", "")
        options += ["SMTPUTF8", "BODY=8BITMIME"]
    return options


@dataclass(frozen=True, slots=True)
class _DsnOptions:
    """RFC 3461's parameters of MAIL and RCPT."""

    mail: tuple[str, ...] = ()
    rcpt: tuple[str, ...] = ()


def _reports(connection: aiosmtplib.SMTP, provider: Provider, envelope: SmtpEnvelope) -> _DsnOptions:
    """Ask a plain server to report by mail what became of it, success too; other kinds tell it by webhook.

    Each report repeats ENVID and ORCPT: which email, and whom we wrote to if it was forwarded since.
    """
    if provider.kind != "smtp" or not envelope.sender or not connection.supports_extension("dsn"):
        return _DsnOptions()
    envid = f"ENVID={_xtext(envelope.sender.partition('@')[0])}"
    orcpt = () if envelope.utf8 else (f"ORCPT=rfc822;{_xtext(envelope.recipient)}",)
    return _DsnOptions(("RET=HDRS", envid), ("NOTIFY=SUCCESS,FAILURE,DELAY", *orcpt))


def _xtext(text: str) -> str:
    """RFC 3461 §4: what isn't plain, and `+` and `=`, in hexadecimal."""
    return "".join(char if "!" <= char <= "~" and char not in "+=" else f"+{ord(char):02X}" for char in text)


@contextlib.asynccontextmanager
async def _ended(
    connection: aiosmtplib.SMTP, steps: "_ConversationProgress", pool: _ConnectionPool | None = None
) -> AsyncIterator[None]:
    """Turns whatever ends a conversation into its answer; the connection lives on only where it can."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as refusal:
        if pool is not None and refusal.code != 421 and await _reset(connection):
            pool.release(connection)
        else:
            connection.close()
        again = refusal.code == 421 and steps.stage is SmtpStage.MAIL
        raise _ConversationEnded(smtp_result(steps.stage, refusal.code, refusal.message), again=again) from refusal
    except (aiosmtplib.SMTPException, ssl.SSLError, OSError, UnicodeError, ValueError) as error:
        connection.close()
        again = isinstance(error, aiosmtplib.SMTPServerDisconnected) and steps.stage is SmtpStage.MAIL
        said = smtp_result(steps.stage, _local_code(error), f"{type(error).__name__}: {error}")
        raise _ConversationEnded(said, again=again) from error
    except BaseException:
        connection.close()
        raise


def _local_code(error: Exception) -> int:
    # An address that can't be said to any server is as good as refused by this one.
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
