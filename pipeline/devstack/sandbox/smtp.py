"""The sandbox's SMTP side, which answers by address pattern; started by :mod:`pipeline.devstack.sandbox.server`."""

import asyncio
import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pipeline.devstack.sandbox.address_patterns import behaviour_of
from pipeline.devstack.sandbox.provider import SandboxProvider
from pipeline.runtime.smtp_data import EndlessMessage, read_message

HOST_NAME = "sandbox.mailfold.localhost"
MAX_MESSAGE_BYTES = 30 * 1024 * 1024
"""SendGrid's own limit."""
MAX_LINE_BYTES = 1_000
"""Bytes of a line with its CRLF, by RFC 5321 §4.5.3.1.6."""


class SandboxSmtpHandler:
    """The hooks that aiosmtpd calls for SMTP commands."""

    def __init__(self, provider: SandboxProvider) -> None:
        self._provider = provider

    async def handle_EHLO(  # noqa: N802  aiosmtpd names its hooks for SMTP's verbs
        self, _server: SMTP, session: Session, _envelope: Envelope, host_name: str, replies: list[str]
    ) -> list[str]:
        """Offer PIPELINING as well, as sending services do; aiosmtpd takes commands in their order anyway."""
        session.host_name = host_name
        return [*replies[:-1], "250-PIPELINING", replies[-1]]

    async def handle_RCPT(  # noqa: N802  likewise
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Accept or refuse a recipient, late or by closing the connection if the address says so."""
        behaviour = behaviour_of(address)
        if behaviour.slow:
            await asyncio.sleep(behaviour.slow)
        if self._provider.should_refuse(behaviour.hang_up, envelope.mail_from, address):
            _hang_up(server)
        if self._provider.should_refuse(behaviour.on_rcpt, envelope.mail_from, address):
            assert behaviour.on_rcpt is not None
            return behaviour.on_rcpt.answer
        if self._provider.webhook_sender.is_full:
            return "451 4.3.2 Too many webhooks are waiting, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Recipient address accepted"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  likewise
        """Accept the message, unless a recipient's address says that its content is refused."""
        for address in envelope.rcpt_tos:
            behaviour = behaviour_of(address)
            if self._provider.should_refuse(behaviour.on_data, envelope.mail_from, address):
                assert behaviour.on_data is not None
                return behaviour.on_data.answer
        content = envelope.content
        assert isinstance(content, bytes)
        message = self._provider.accept(
            envelope.mail_from or "", tuple(envelope.rcpt_tos), content, tls=session.ssl is not None
        )
        if any(self._should_vanish(envelope, address) for address in envelope.rcpt_tos):
            _hang_up(server)
        return f"250 2.0.0 Ok: queued as {message.queue_id}"

    def _should_vanish(self, envelope: Envelope, address: str) -> bool:
        return self._provider.should_refuse(behaviour_of(address).vanish, envelope.mail_from, address)


class SandboxSmtpSession(SMTP):
    """One client's connection."""

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802  aiosmtpd's name
        """Receive a message and answer; aiosmtpd's own method takes 20 times as long for a large one."""
        assert self.envelope is not None
        assert isinstance(self.transport, asyncio.Transport)
        if not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        try:
            content, size = await read_message(
                self._reader, max_kept_bytes=MAX_MESSAGE_BYTES, max_bytes=2 * MAX_MESSAGE_BYTES
            )
        except EndlessMessage:
            self.transport.abort()
            raise asyncio.CancelledError from None
        reply = _size_problem(content, size)
        if not reply:
            self.envelope.content = self.envelope.original_content = content
            reply = await self._call_handler_hook("DATA")
        self._set_post_data_state()  # type: ignore[no-untyped-call]
        await self.push(reply)


def _size_problem(content: bytes, size: int) -> str:
    """Return the reply to a message that is too large, or has a line that is; empty if neither is the case."""
    if size > MAX_MESSAGE_BYTES:
        return "552 5.3.4 Too much mail data"
    if max(map(len, content.split(b"\r\n"))) + len(b"\r\n") > MAX_LINE_BYTES:
        return "500 5.6.0 Line too long (RFC 5321 4.5.3.1.6)"
    return ""


def session_factory(provider: SandboxProvider, tls: ssl.SSLContext | None) -> Any:
    """Return a factory of SMTP sessions for ``loop.create_server``."""
    handler = SandboxSmtpHandler(provider)
    loop = asyncio.get_running_loop()
    return lambda: SandboxSmtpSession(
        handler,
        data_size_limit=MAX_MESSAGE_BYTES,
        enable_SMTPUTF8=True,
        hostname=HOST_NAME,
        ident="Mailfold sandbox",
        tls_context=tls,
        timeout=60,
        auth_require_tls=False,
        authenticator=_accept_any_login,
        loop=loop,
    )


def tls_context() -> ssl.SSLContext:
    """Return a context for STARTTLS with a new self-signed certificate."""
    certificate, key = _create_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory(prefix="mailfold-tls-") as folder:
        # Python loads a key from files only; this folder is readable by its owner only (0700) and removed at once.
        path = Path(folder) / "sandbox.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context


def _create_certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    alternative_names = [
        x509.DNSName(HOST_NAME),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), pem


def _accept_any_login(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, _data: Any) -> AuthResult:
    """Accept any user name and password: there is nothing here to protect."""
    return AuthResult(success=True)


def _hang_up(server: SMTP) -> None:
    """Close the connection as a broken network would; aiosmtpd treats a cancelled session as a lost one."""
    assert isinstance(server.transport, asyncio.Transport)
    server.transport.abort()
    raise asyncio.CancelledError
