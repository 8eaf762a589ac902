"""Stand in for Amazon SNS over real HTTPS: sign messages as it does, serve its certificate, count confirmations.

A test gives the gateway a connector that resolves every name to this server, and that alone trusts the authority of
the server's certificate for SNS's name.
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
    """A stand-in for SNS: its keys, its answers, and the requests that it got."""

    def __init__(self, folder: Path) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.pem = certificate(self.key, "sns.amazonaws.com")
        self.certificates = 0
        self.confirmed: list[str] = []
        self.answers: list[web.Response] = []
        """Answers to give, in order, instead of the certificate or the confirmation."""
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
        return aiohttp.TCPConnector(ssl=self.trust, resolver=_ServerResolver(self))

    def message(self, kind: str = "Notification", version: str = "2", **changed: str) -> bytes:
        """Return the body of a signed request."""
        fields = {
            "Type": kind,
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "TopicArn": TOPIC,
            "Message": json.dumps({"notificationType": "Delivery"}),
            "Timestamp": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "SignatureVersion": version,
            "SigningCertURL": f"https://{HOST}/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem",
        } | changed
        if kind == "SubscriptionConfirmation":
            query = f"Action=ConfirmSubscription&TopicArn={fields['TopicArn']}&Token=2336412f37"
            fields = {"Token": "2336412f37", "SubscribeURL": f"https://{HOST}/?{query}"} | fields
        text = "".join(f"{name}\n{fields[name]}\n" for name in SIGNED[kind] if name in fields)
        algorithm = {"1": hashes.SHA1(), "2": hashes.SHA256()}[version]
        signature = self.key.sign(text.encode(), padding.PKCS1v15(), algorithm)
        return json.dumps(fields | {"Signature": base64.b64encode(signature).decode()}).encode()

    async def handle(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.slow_s)
        is_confirmation = request.query.get("Action") == "ConfirmSubscription"
        self.certificates += not is_confirmation
        if self.answers:
            return self.answers.pop(0)
        if is_confirmation:
            self.confirmed.append(request.query["TopicArn"])
            return web.Response(text="<ConfirmSubscriptionResponse/>")
        return web.Response(body=self.pem)


@contextlib.asynccontextmanager
async def amazon(folder: Path) -> AsyncIterator[Amazon]:
    """Run the stand-in, with its certificate in ``folder``."""
    server = Amazon(folder)
    async with http_server(server.handle, tls=server.context) as server.port:
        yield server


class _ServerResolver(AbstractResolver):
    """A resolver that resolves every name to the stand-in."""

    def __init__(self, server: Amazon) -> None:
        self._server = server

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        result = ResolveResult(
            hostname=host,
            host="127.0.0.1",
            port=self._server.port,
            family=socket.AF_INET,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        return [result]

    async def close(self) -> None:
        pass


def certificate(key: rsa.RSAPrivateKey, name: str) -> bytes:
    """Return a self-signed certificate for this name, in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    signed = (
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
    return signed.public_bytes(serialization.Encoding.PEM)
