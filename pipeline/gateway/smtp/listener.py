"""The SMTP listener for inbound mail, which runs inside the gateway's process; `server.py` opens it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from pipeline.errors import InvalidSettings
from pipeline.gateway.smtp.connection_limits import SmtpConnectionLimits
from pipeline.gateway.smtp.recorder import InboundMailRecorder
from pipeline.gateway.smtp.session import InboundSmtpSession, SmtpSessionContext
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.private_files import make_private_folder, replace_file
from pipeline.settings import Settings

PORT_FILE: Final = "inbound.port"
SHUTDOWN_GRACE_S: Final = 5.5
"""Seconds that sessions may take to end when the gateway stops; an append may need one append_timeout (5 s)."""
log = get_logger(__name__)


@contextlib.asynccontextmanager
async def smtp_listener(settings: Settings, recorder: InboundMailRecorder, stop: asyncio.Event) -> AsyncIterator[None]:
    """Listen, if the settings name a host, until ``stop`` is set or the block ends. Raise InvalidSettings."""
    if not settings.inbound_host:
        yield
        return
    loop = asyncio.get_running_loop()
    context = SmtpSessionContext(
        domain=settings.mail_domain,
        token_readers=recorder.token_readers,
        max_bytes=settings.inbound_max_bytes,
        limits=SmtpConnectionLimits(settings.inbound_connections, settings.inbound_rate, loop.time),
        handle_message=recorder.record_smtp,
        count=lambda result: recorder.count("smtp", result),
        tls=TlsCertificate(settings).context,
    )
    recorder.watch_connections(lambda: context.limits.open_connections)
    server = await _start_server(settings, context)
    # The listener closes while the HTTP server shuts down, because the time for both is limited.
    closing = asyncio.create_task(_close_after(stop, server, context))
    try:
        yield
    finally:
        if not stop.is_set():
            closing.cancel()
            closing = asyncio.create_task(_close(server, context))
        await asyncio.wait([closing])


async def _close_after(stop: asyncio.Event, server: asyncio.Server, context: SmtpSessionContext) -> None:
    await stop.wait()
    await _close(server, context)


async def _start_server(settings: Settings, context: SmtpSessionContext) -> asyncio.Server:
    """Start listening, and write the port to its file. Raise InvalidSettings if the address can't be used."""
    host, port = settings.inbound_host, settings.inbound_port
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: InboundSmtpSession(context, settings.mail_domain), host, port, backlog=256
        )
    except OSError as error:
        raise InvalidSettings(f"MAILFOLD_INBOUND_PORT: {host}:{port} can't be listened on: {error.strerror}") from error
    bound = server.sockets[0].getsockname()[1]
    make_private_folder(settings.data_dir)
    replace_file(settings.data_dir / PORT_FILE, f"{bound}\n")
    log.info("gateway accepts inbound mail", host=host, port=bound, domain=settings.mail_domain)
    return server


async def _close(server: asyncio.Server, context: SmtpSessionContext) -> None:
    """Close the listener and idle sessions; a session that is receiving a message may finish and answer it first."""
    server.close()
    deadline = asyncio.get_running_loop().time() + SHUTDOWN_GRACE_S
    while context.sessions and asyncio.get_running_loop().time() < deadline:
        for session in list(context.sessions):
            if not session.is_receiving:
                session.hang_up()
        await asyncio.sleep(0.02)
    for session in list(context.sessions):
        session.hang_up()


class TlsCertificate:
    """The certificate for STARTTLS, loaded again when its file changes: certificates are renewed every few weeks."""

    def __init__(self, settings: Settings) -> None:
        self._files = (settings.inbound_certificate, settings.inbound_certificate_key)
        self._loaded_times: tuple[float, ...] = ()
        self._context: ssl.SSLContext | None = None
        if self._files[0]:
            self._load()

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context for the next connection: the previous one if the changed files can't be loaded."""
        if self._files[0] and self._modification_times() != self._loaded_times:
            try:
                self._load()
            except InvalidSettings as error:
                log.error("certificate not loaded, the previous one stays in use", error=str(error))
        return self._context

    def _load(self) -> None:
        self._loaded_times = self._modification_times()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings(f"MAILFOLD_INBOUND_CERTIFICATE: {certificate} can't be used: {error}") from error
        self._context = context

    def _modification_times(self) -> tuple[float, ...]:
        times = []
        for name in self._files:
            with contextlib.suppress(OSError):
                times.append(Path(name).stat().st_mtime if name else 0.0)
        return tuple(times)
