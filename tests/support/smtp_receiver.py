"""Run a real SMTP server on a free port, which keeps what arrives and answers as a test configures it."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Received:
    recipient: str
    sender: str
    options: list[str]
    raw: bytes
    tls: bool
    login: str

    @property
    def message(self) -> EmailMessage:
        parsed = BytesParser(policy=SMTP_POLICY).parsebytes(self.raw)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @property
    def message_id(self) -> str:
        return str(self.message["Message-ID"])


@dataclass
class Receiver:
    """A server's mails and counters, and its answers.

    ``rcpt`` and ``data`` have the answers to RCPT and DATA by recipient, in order; the last one is repeated.
    """

    port: int = 0
    mails: list[Received] = field(default_factory=list)
    rcpt: dict[str, list[str]] = field(default_factory=dict)
    data: dict[str, list[str]] = field(default_factory=dict)
    mail_from: str = ""
    hang_up_after_data: set[str] = field(default_factory=set)
    slow: dict[str, float] = field(default_factory=dict)
    connections: int = 0
    open_now: int = 0
    open_most: int = 0
    asked: int = 0

    # -------------------------------------------------------------- aiosmtpd's hooks
    async def handle_MAIL(  # noqa: N802  aiosmtpd's name
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.mail_from:
            return self.mail_from
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self.asked += 1
        answer = _next(self.rcpt, address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd's name
        recipient = str(envelope.rcpt_tos[0])
        await asyncio.sleep(self.slow.get(recipient, 0))
        answer = _next(self.data, recipient)
        if answer.startswith("2"):
            content = envelope.content
            self.mails.append(
                Received(
                    recipient=recipient,
                    sender=str(envelope.mail_from),
                    options=[str(option) for option in envelope.mail_options],
                    raw=content if isinstance(content, bytes) else str(content).encode(),
                    tls=session.ssl is not None,
                    login=(session.auth_data or b"").decode(),
                )
            )
        if recipient in self.hang_up_after_data:
            self.hang_up_after_data.discard(recipient)
            transport: Any = server.transport
            transport.abort()
        return answer

    def to(self, recipient: str) -> list[Received]:
        return [mail for mail in self.mails if mail.recipient == recipient]


def _next(answers: dict[str, list[str]], recipient: str) -> str:
    remaining = answers.get(recipient, ["250 2.0.0 OK queued as abc123"])
    return remaining.pop(0) if len(remaining) > 1 else remaining[0]


class _Server(SMTP):
    def __init__(self, receiver: Receiver, **options: Any) -> None:
        super().__init__(receiver, **options)
        self._receiver = receiver

    def connection_made(self, transport: Any) -> None:
        self._receiver.connections += self.transport is None
        self._receiver.open_now += self.transport is None
        self._receiver.open_most = max(self._receiver.open_most, self._receiver.open_now)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.open_now -= 1
        super().connection_lost(error)


@contextlib.asynccontextmanager
async def smtp_receiver(port: int = 0, **options: Any) -> AsyncIterator[Receiver]:
    """Run a receiver; ``options`` are aiosmtpd's."""
    receiver = Receiver()
    options = {"enable_SMTPUTF8": True, "hostname": "receiver.test"} | options
    server = await asyncio.get_running_loop().create_server(
        lambda: _Server(receiver, **options), "127.0.0.1", port, ssl=None
    )
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def password_is(username: str, password: str) -> dict[str, Any]:
    """Return aiosmtpd's options for a server that requires this login."""

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any) -> AuthResult:
        is_valid = login.login == username.encode() and login.password == password.encode()
        return AuthResult(success=is_valid, auth_data=login.login, handled=False)

    return {"authenticator": check, "auth_required": True, "auth_require_tls": False}


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context with a self-signed certificate for 127.0.0.1, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, cert_file
