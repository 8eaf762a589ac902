"""Run a sandbox with a gateway that verifies its signatures, and send it mail with a real client."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.sandbox.server import RunningSandbox, open_sandbox
from pipeline.runtime.bootstrap import fresh_id, wall_clock
from pipeline.settings import Settings
from tests.support.echoes import echoed
from tests.support.http_server import http_server

EMAIL_ID = "11111111-2222-5333-8444-555555555555"
PNG_LIKE = b"GIF89a"


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        parsed: list[dict[str, Any]] = json.loads(self.body)
        return parsed


@dataclass
class Gateway:
    """A server of all that the sandbox calls: webhooks, pixel and links."""

    key: str
    refuse: int = 0
    authentic: list[Request] = field(default_factory=list)
    forged: list[Request] = field(default_factory=list)
    visits: list[tuple[str, str]] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for request in self.authentic for event in request.events]

    async def handle(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return await self.visit(request)
        assert (request.method, request.path) == ("POST", "/webhooks/sandbox")
        return await self.webhook(request)

    async def webhook(self, request: web.Request) -> web.Response:
        webhook = Request(dict(request.headers), await request.read())
        if not _is_signed(self.key, webhook):
            self.forged.append(webhook)
            return web.Response(status=401)
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        self.authentic.append(webhook)
        return web.Response(status=202)

    async def visit(self, request: web.Request) -> web.Response:
        self.visits.append((request.path, request.headers["User-Agent"]))
        if request.path.startswith("/c/"):
            raise web.HTTPFound("http://stranger.test/")
        return web.Response(body=PNG_LIKE)


def _is_signed(key: str, request: Request) -> bool:
    """Return whether the signature is valid, without the code of our SendGrid adapter."""
    loaded = load_der_public_key(base64.b64decode(key))
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(request.headers["X-Twilio-Email-Event-Webhook-Signature"])
    timestamp = request.headers["X-Twilio-Email-Event-Webhook-Timestamp"]
    try:
        loaded.verify(signature, timestamp.encode() + request.body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@dataclass
class World:
    sandbox: RunningSandbox
    gateway: Gateway
    origin: str

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.sandbox.http_port}"

    async def send(self, *recipients: str, html: str = "", **options: Any) -> str:
        message = mail(html.replace("ORIGIN", self.origin))
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=self.sandbox.smtp_port, start_tls=True, tls_context=untrusting(), timeout=10
        )
        async with client:
            _, text = await client.send_message(
                message, sender="b-verp@mailfold.test", recipients=list(recipients), **options
            )
        return str(text)

    def event_names(self) -> list[str]:
        return [event["event"] for event in self.gateway.events]

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not ready():
                await asyncio.sleep(0.01)


def untrusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def mail(html: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "news@brand.test", "anna@example.test", "Grüße & <b>"
    message["Message-ID"] = "<abc.def@mailfold.test>"
    message["X-SMTPAPI"] = json.dumps({"unique_args": echoed(EMAIL_ID)})
    message.set_content("hello")
    if html:
        message.add_alternative(html, subtype="html")
    return message


@contextlib.asynccontextmanager
async def world(tmp_path: Path, **options: Any) -> AsyncIterator[World]:
    gateway = Gateway(public_key(tmp_path))
    async with http_server(gateway.handle) as port:
        origin = f"http://127.0.0.1:{port}"
        settings = Settings(
            data_dir=tmp_path,
            sandbox_smtp_port=0,
            sandbox_http_port=0,
            sandbox_gateway=origin,
            public_url=origin,
            sandbox_pace=0.02,
            **options,
        )
        async with open_sandbox(settings, clock=wall_clock, new_id=fresh_id, retries=(0.01, 0.02, 0.04)) as running:
            yield World(running, gateway, origin)
