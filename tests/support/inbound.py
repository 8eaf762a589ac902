"""Run a gateway that receives inbound mail, and build the mail to send to it."""

import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from pipeline.content import tokens
from pipeline.gateway.smtp.listener import PORT_FILE
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import records, until
from topics.record import EmailId
from topics.registry import PROVIDER_WEBHOOKS

DOMAIN = "mailfold.localhost"
EMAIL_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")


def verp(email_id: EmailId = EMAIL_ID, domain: str = DOMAIN) -> str:
    return tokens.verp_address(Signer(RING, "verp"), email_id, domain)


def unsubscribe(email_id: EmailId = EMAIL_ID, domain: str = DOMAIN) -> str:
    return tokens.unsubscribe_address(Signer(RING, "unsubscribe"), email_id, domain)


def message_id(email_id: EmailId = EMAIL_ID, domain: str = DOMAIN) -> str:
    return tokens.message_id_header(Signer(RING, "message-id"), email_id, domain)


def forged(tag: str, number: int = 0) -> str:
    """Return a tagged address with other characters in its signature."""
    at = tag.index("@")
    digits = base64.b32encode(number.to_bytes(5, "big")).decode().lower()
    return f"{tag[: at - 9]}{digits}q{tag[at:]}"


def bounce(to: str, padding: int = 0) -> bytes:
    """Return a DSN as mail servers write it, with ``padding`` bytes in the returned message."""
    returned = "Subject: x\r\n\r\n" + ("x" * 70 + "\r\n") * (padding // 72)
    return (
        "From: Mail Delivery System <MAILER-DAEMON@mx.example.net>\r\n"
        f"To: {to}\r\n"
        "Subject: Undelivered Mail Returned to Sender\r\n"
        "Message-ID: <20260102030405.77@mx.example.net>\r\n"
        "Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n"
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b1"\r\n'
        "\r\n"
        "--b1\r\n\r\nIt could not be delivered.\r\n\r\n"
        "--b1\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example.net\r\n\r\n"
        "Original-Recipient: rfc822;anna@example.net\r\n"
        "Final-Recipient: rfc822; anna@example.net\r\n"
        "Action: failed\r\nStatus: 5.1.1\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 <anna@example.net>: no such user here\r\n\r\n"
        f"--b1\r\nContent-Type: message/rfc822\r\n\r\n{returned}\r\n"
        "--b1--\r\n"
    ).encode()


@dataclass(frozen=True)
class Inbound:
    """A running gateway and its SMTP port."""

    gateway: Gateway
    port: int

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[aiosmtplib.SMTP]:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=self.port, start_tls=False, timeout=20) as connected:
            yield connected

    async def send(self, to: str, message: bytes, sender: str = "") -> aiosmtplib.SMTPResponse:
        """Send a message and return the answer to DATA. Raise SMTPResponseException for a refusal."""
        async with self.client() as client:
            await client.ehlo()
            await client.mail(sender)
            await client.rcpt(to)
            return await client.data(message)

    async def kept(self) -> list[Any]:
        """Return the records of received mail on the log."""
        return [record for *_, record in await records(self.gateway.rt.settings, PROVIDER_WEBHOOKS)]


@contextlib.asynccontextmanager
async def inbound(settings: Settings, **changed: Any) -> AsyncIterator[Inbound]:
    """Run a gateway that listens for mail on a free port."""
    file = settings.data_dir / PORT_FILE
    file.unlink(missing_ok=True)
    async with gateway(settings, inbound_host="127.0.0.1", inbound_port=0, **changed) as world:
        await until(lambda: file.exists() and file.read_text().endswith("\n"))
        yield Inbound(world, int(file.read_text()))
