"""An innocent tenant beside an attack: how long its emails and its webhooks take, at a constant rate.

An email takes from its first POST until the history says `sent`: accepted, handed to the sandbox, acknowledged, folded
and projected. A webhook takes from its first POST until the history says `delivered`. Who is not answered tries again,
as clients do, and the time goes on.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.runtime.secrets.secret_ring import secret_ring
from tests.abuse.stack import INNOCENT, Running
from tests.support.echoes import echoed
from tests.support.fasttrack import activity, message

POLL_S: Final = 0.02
AGAIN_S: Final = 0.25


@dataclass
class Figures:
    """What the innocents saw, in seconds; who saw nothing to the end is lost."""

    emails: list[float] = field(default_factory=list)
    webhooks: list[float] = field(default_factory=list)
    lost: int = 0

    def as_json(self) -> dict[str, Any]:
        def of(times: list[float]) -> dict[str, float]:
            return {"count": len(times), "p50_ms": 1000 * quantile(times, 0.5), "p99_ms": 1000 * quantile(times, 0.99)}

        return {"email": of(self.emails), "webhook": of(self.webhooks), "lost": self.lost}


def quantile(times: list[float], share: float) -> float:
    """The time that this share of all did not exceed; infinite where there are none."""
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)] if times else math.inf


class Statuses:
    """The history's statuses of emails that somebody waits for; one question to Postgres for all."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._waiting: dict[str, tuple[str, asyncio.Event]] = {}

    async def become(self, email_id: str, status: str) -> None:
        """Wait until the history says so."""
        event = asyncio.Event()
        self._waiting[email_id] = (status, event)
        await event.wait()

    async def poll(self) -> None:
        """Ask until cancelled."""
        query = "select email_id::text, status from projections.history where email_id = any(%s::uuid[])"
        while True:
            await asyncio.sleep(POLL_S)
            if not self._waiting:
                continue
            async with self._running.pool.connection() as connection:
                rows = await (await connection.execute(query, (list(self._waiting),))).fetchall()
            for email_id, status in rows:
                wanted, event = self._waiting[email_id]
                if status == wanted:
                    del self._waiting[email_id]
                    event.set()


class Probe:
    """Sends emails one by one and tells of each that it was delivered."""

    def __init__(self, running: Running, *, chunked: bool = False) -> None:
        self._running = running
        self._statuses = Statuses(running)
        self._chunked = chunked
        self.figures = Figures()

    async def run(self, name: str, seconds: float, rate: float, patience: float) -> Figures:
        """Begin ``rate`` emails a second for so long, then wait for the last of them, ``patience`` seconds at most."""
        polling = asyncio.create_task(self._statuses.poll())
        began, tasks = time.monotonic(), []
        try:
            for nth in range(max(1, round(seconds * rate))):
                await asyncio.sleep(max(0.0, began + nth / rate - time.monotonic()))
                tasks.append(asyncio.create_task(self._one(f"{name}-{nth}")))
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            _, late = await asyncio.wait(tasks, timeout=patience)
            self.figures.lost = len(late)
            for task in late:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome
        finally:
            polling.cancel()
        return self.figures

    async def _one(self, identity: str) -> None:
        began = time.monotonic()
        email_id = await self._posted(identity)
        await self._statuses.become(email_id, "sent")
        self.figures.emails.append(time.monotonic() - began)
        began = time.monotonic()
        body = json.dumps([_delivered(email_id) | echoed(email_id, secret_ring(self._running.settings))]).encode()
        await self._until_answered(lambda: self._webhook(body))
        await self._statuses.become(email_id, "delivered")
        self.figures.webhooks.append(time.monotonic() - began)

    async def _posted(self, identity: str) -> str:
        one = message(activity=activity(id=identity), email=f"{identity}+silent@example.test")
        body = json.dumps([one]).encode()

        async def post() -> str | None:
            status, answer = await self._running.request("POST", "/channels/email/batch", body, tenant=INNOCENT)
            accepted = json.loads(answer)["successful"] if status == 200 else []
            return accepted[0]["email_id"] if accepted else None

        return str(await self._until_answered(post))

    async def _webhook(self, body: bytes) -> str | None:
        return "taken" if await self._running.webhook(body, chunked=self._chunked) == 200 else None

    @staticmethod
    async def _until_answered(ask: Callable[[], Awaitable[str | None]]) -> str:
        while (answer := await ask()) is None:
            await asyncio.sleep(AGAIN_S)
        return answer


def _delivered(email_id: str) -> dict[str, Any]:
    return {
        "event": "delivered",
        "email": "innocent@example.test",
        "sg_event_id": f"delivered-{email_id}",
        "sg_message_id": email_id,
        "timestamp": int(time.time()),
        "response": "250 OK",
    }
