"""Amazon SNS over real HTTPS: signs as it does, hands out its certificate, counts who comes to confirm.

The gateway is shown the way here by a connector of the test's own: whatever name it asks for, this server answers, with
a certificate for SNS's name from an authority that the connector alone trusts.
"""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.support.http_server import http_server

HOST = "sns.eu-west-1.amazonaws.com"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail"
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}


class Amazon:
    """What it holds and what it saw."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.pem = certificate(self.key, "sns.amazonaws.com")
        self.certificates = 0
        self.confirmed: list[str] = []
        self.answers: list[web.Response] = []
        """Given instead of what was asked for, first to last."""
        self.slow_s = 0.0
        (folder / "sns.pem").write_bytes(self.pem_of_host())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "sns.pem")
        self.trust = ssl.create_default_context(cafile=str(folder / "sns.pem"))
        self.port = 0

    def pem_of_host(self) -> bytes:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return secret + certificate(key, HOST)

    def connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=self.trust, resolver=_Here(self))

    def message(self, kind: str = "Notification", version: str = "2", **changed: str) -> bytes:
        """A signed request's body."""
        made = {
            "Type": kind,
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "TopicArn": TOPIC,
            "Message": json.dumps({"notificationType": "Delivery"}),
            "Timestamp": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "SignatureVersion": version,
            "SigningCertURL": f"https://{HOST}/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem",
        } | changed
        if kind == "SubscriptionConfirmation":
            query = f"Action=ConfirmSubscription&TopicArn={made['TopicArn']}&Token=2336412f37"
            made = {"Token": "2336412f37", "SubscribeURL": f"https://{HOST}/?{query}"} | made
        text = "".join(f"{name}\n{made[name]}\n" for name in SIGNED[kind] if name in made)
        by = {"1": hashes.SHA1(), "2": hashes.SHA256()}[version]
        signature = self.key.sign(text.encode(), padding.PKCS1v15(), by)
        return json.dumps(made | {"Signature": base64.b64encode(signature).decode()}).encode()

    async def handle(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.slow_s)
        confirms = request.query.get("Action") == "ConfirmSubscription"
        self.certificates += not confirms
        if self.answers:
            return self.answers.pop(0)
        if confirms:
            self.confirmed.append(request.query["TopicArn"])
            return web.Response(text="<ConfirmSubscriptionResponse/>")
        return web.Response(body=self.pem)


@contextlib.asynccontextmanager
async def amazon(folder: Path) -> AsyncIterator[Amazon]:
    it = Amazon(folder)
    async with http_server(it.handle, tls=it.context) as it.port:
        yield it


class _Here(AbstractResolver):
    """Every name is this server."""

    def __init__(self, it: Amazon) -> None:
        self.it = it

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        here = ResolveResult(
            hostname=host,
            host="127.0.0.1",
            port=self.it.port,
            family=socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        return [here]

    async def close(self) -> None:
        pass


def certificate(key: rsa.RSAPrivateKey, name: str) -> bytes:
    """Of its own making, for this name."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
