"""The settings in; an SMTP listener inside the gateway's process, every message on the log before its 250, out."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from pipeline.errors import InvalidSettings
from pipeline.gateway.smtp.connection_limits import SmtpConnectionLimits
from pipeline.gateway.smtp.recorder import InboundMailRecorder
from pipeline.gateway.smtp.session import InboundSmtpSession, SmtpSessionContext
from pipeline.runtime.private_files import make_private_folder, replace_file
from pipeline.settings import Settings

PORT_FILE: Final = "inbound.port"
SHUTDOWN_GRACE_S: Final = 5.5
"""For messages in hand when told to stop: an append has one append_timeout (5 s)."""
log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def smtp_listener(settings: Settings, keeper: InboundMailRecorder, stop: asyncio.Event) -> AsyncIterator[None]:
    """Listen, where the settings say so, until ``stop`` or the end of the block. Raises BadSettings."""
    if not settings.inbound_host:
        yield
        return
    loop = asyncio.get_running_loop()
    terms = SmtpSessionContext(
        domain=settings.mail_domain,
        proofs=keeper.proofs,
        size_max=settings.inbound_max_bytes,
        limits=SmtpConnectionLimits(settings.inbound_connections, settings.inbound_rate, loop.time),
        take=keeper.record_smtp,
        count=lambda result: keeper.count("smtp", result),
        tls=TlsCertificate(settings).context,
    )
    keeper.watch_connections(lambda: terms.limits.open_connections)
    server = await _server(settings, terms)
    # Beside the HTTP server's own end, not after it: both have seconds.
    ending = asyncio.create_task(_end_on(stop, server, terms))
    try:
        yield
    finally:
        if not stop.is_set():
            ending.cancel()
            ending = asyncio.create_task(_end(server, terms))
        await asyncio.wait([ending])


async def _end_on(stop: asyncio.Event, server: asyncio.Server, terms: SmtpSessionContext) -> None:
    await stop.wait()
    await _end(server, terms)


async def _server(settings: Settings, terms: SmtpSessionContext) -> asyncio.Server:
    host, port = settings.inbound_host, settings.inbound_port
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: InboundSmtpSession(terms, settings.mail_domain), host, port, backlog=256
        )
    except OSError as error:
        raise InvalidSettings(f"MAILFOLD_INBOUND_PORT: {host}:{port} can't be listened on: {error.strerror}") from error
    bound = server.sockets[0].getsockname()[1]
    make_private_folder(settings.data_dir)
    replace_file(settings.data_dir / PORT_FILE, f"{bound}\n")
    log.info("inbound mail is taken on %s:%d for %s", host, bound, settings.mail_domain)
    return server


async def _end(server: asyncio.Server, terms: SmtpSessionContext) -> None:
    """Whoever is handing over a message may finish, and is told what became of it; the others are let go at once."""
    server.close()
    deadline = asyncio.get_running_loop().time() + SHUTDOWN_GRACE_S
    while terms.sessions and asyncio.get_running_loop().time() < deadline:
        for session in list(terms.sessions):
            if not session.is_receiving:
                session.hang_up()
        await asyncio.sleep(0.02)
    for session in list(terms.sessions):
        session.hang_up()


class TlsCertificate:
    """STARTTLS' certificate, read again when its file is another: they are renewed every few weeks."""

    def __init__(self, settings: Settings) -> None:
        self._files = (settings.inbound_certificate, settings.inbound_certificate_key)
        self._seen: tuple[float, ...] = ()
        self._context: ssl.SSLContext | None = None
        if self._files[0]:
            self._load()

    def context(self) -> ssl.SSLContext | None:
        """For the next connection; the last good one where the new files can't be read."""
        if self._files[0] and self._times() != self._seen:
            try:
                self._load()
            except InvalidSettings as error:
                log.error("%s; going on with the old certificate", error)
        return self._context

    def _load(self) -> None:
        self._seen = self._times()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings(f"MAILFOLD_INBOUND_CERTIFICATE: {certificate} can't be used: {error}") from error
        self._context = context

    def _times(self) -> tuple[float, ...]:
        found = []
        for name in self._files:
            with contextlib.suppress(OSError):
                found.append(Path(name).stat().st_mtime if name else 0.0)
        return tuple(found)
