"""An SMTP server and a Fast Track receiver that record what arrives; the receiver can fail in several ways."""

import asyncio
import contextlib
import email
import email.policy
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from aiosmtpd.controller import Controller

from tests.chaos.ledger import Arrival, Ledger, Mail

RETRY_AFTER = 2
DRIP = 30
"""Bytes of an answer that is sent at one byte per second, which takes longer than any timeout."""


class MailSink:
    """An SMTP server that accepts all recipients but those that begin with `nobody`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.on_mail: Callable[[Mail], None] = lambda _: None

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = message.get_body(("html",))
        html = part.get_content() if part is not None else ""
        mail = Mail(time.time(), envelope.rcpt_tos[0], str(message["Message-ID"]), html)
        self.ledger.mails.append(mail)
        self.on_mail(mail)
        return "250 ok"


class Receiver:
    """A receiver in place of Fast Track with a path per brand: ``/b/{brand}/email/conversion``.

    The mood of a brand says how it fails; without a mood it accepts everything.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.moods: dict[str, str] = {}
        self.seen: Counter[str] = Counter()
        """Number of conversions that arrived in each mood."""
        self.on_told: Callable[[Arrival], None] = lambda _: None

    def app(self) -> web.Application:
        made = web.Application()
        made.router.add_post("/b/{brand}/email/conversion", self.receive)
        made.router.add_route("*", "/elsewhere", self.astray)
        return made

    async def astray(self, _: web.Request) -> web.Response:
        self.ledger.wrong.append("a redirect of the receiver was followed")
        return web.json_response({})

    async def receive(self, request: web.Request) -> web.StreamResponse:
        brand, mood = request.match_info["brand"], self.moods.get(request.match_info["brand"], "ok")
        text = (await request.read()).decode()
        body, key = json.loads(text), request.headers.get("Idempotency-Key", "")
        row = Arrival(time.time(), brand, body["email_id"], body["delivery_status"], key, text, mood=mood)
        self.ledger.conversions.append(row)
        self.seen[mood] += 1
        if mood == "hang" or mood.startswith("slow"):
            await asyncio.sleep(600 if mood == "hang" else float(mood[4:]))
        answer = await self._answer(request, mood, row)
        row.answered_at = time.time()
        if row.answered in (200, 410):
            self.on_told(row)
        return answer

    async def _answer(self, request: web.Request, mood: str, row: Arrival) -> web.StreamResponse:
        if mood in ("reset", "drop", "drip"):
            return await self._break(request, mood)
        headers = {"429": {"Retry-After": str(RETRY_AFTER)}, "302": {"Location": "/elsewhere"}}.get(mood, {})
        row.answered = int(mood) if mood.isdigit() else 200
        return web.json_response({}, status=row.answered, headers=headers)

    async def _break(self, request: web.Request, mood: str) -> web.StreamResponse:
        """Send an answer that cannot be read to its end."""
        answer = web.StreamResponse(status=200, headers={"Content-Length": str(DRIP)})
        with contextlib.suppress(ConnectionError):
            if mood != "reset":
                await answer.prepare(request)
            for _ in range(DRIP if mood == "drip" else 0):
                await answer.write(b".")
                await asyncio.sleep(1)
        if request.transport is not None:
            request.transport.abort()
        return answer


@contextlib.asynccontextmanager
async def listening(mails: MailSink, receiver: Receiver, smtp_port: int, http_port: int) -> AsyncIterator[None]:
    """Run both sinks on their ports until the block ends."""
    runner = web.AppRunner(receiver.app(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", http_port).start()
    smtp = Controller(mails, hostname="127.0.0.1", port=smtp_port)
    smtp.start()
    try:
        yield
    finally:
        smtp.stop()
        await runner.cleanup()
