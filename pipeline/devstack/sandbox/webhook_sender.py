"""Posts webhooks as SendGrid does: events in; signed batches, tried again until taken, out. Bounded."""

import asyncio
import json
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.devstack.sandbox.event_plan import SendGridEvent
from pipeline.devstack.sandbox.keys import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from pipeline.runtime.ports import Clock

log = logging.getLogger(__name__)

RETRY_DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, *(300.0,) * 287)
"""Seconds between attempts: at most five minutes, for a day, then SendGrid gives up as well."""

MAX_EVENTS_PER_REQUEST: Final = 500
BATCH_WINDOW_S: Final = 0.005
"""Seconds a batch waits for company."""

MAX_REQUESTS_IN_FLIGHT: Final = 8
MAX_PENDING_EVENTS: Final = 50_000
"""Events planned, waiting or being retried; beyond it the sandbox defers mail."""


@dataclass
class WebhookCounts:
    """What became of the events."""

    posted: int = 0
    forged_refused: int = 0
    """Forged ones that the gateway refused, as it must."""
    given_up: int = 0
    attempts: int = 0


class WebhookSender:
    """The queue of events and the posts in flight; run it with :meth:`run`."""

    def __init__(
        self,
        url: str,
        key: ec.EllipticCurvePrivateKey,
        session: aiohttp.ClientSession,
        clock: Clock,
        retries: tuple[float, ...] = RETRY_DELAYS_S,
    ) -> None:
        self._url = url
        self._key = key
        self._session = session
        self._clock = clock
        self._retries = retries
        self._queue: asyncio.Queue[SendGridEvent] = asyncio.Queue()
        self._slots = asyncio.Semaphore(MAX_REQUESTS_IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._forger = ec.generate_private_key(ec.SECP256R1())
        self.pending = 0
        self.counts = WebhookCounts()

    @property
    def is_full(self) -> bool:
        """Whether to take no more mail for now."""
        return self.pending >= MAX_PENDING_EVENTS

    def put(self, event: SendGridEvent) -> None:
        """Queue an event; whoever planned it has counted it in ``pending``."""
        self._queue.put_nowait(event)

    def send_forged(self, event: SendGridEvent) -> None:
        """Post an event of its own, signed with a key nobody knows; once, whatever the answer."""
        self._start(self._forge(json.dumps([event]).encode()))

    async def run(self) -> None:
        """Gather and post until cancelled."""
        try:
            while True:
                batch = await self._gather()
                await self._slots.acquire()
                self._start(self._post(batch))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _gather(self) -> list[SendGridEvent]:
        batch = [await self._queue.get()]
        await asyncio.sleep(BATCH_WINDOW_S)
        while len(batch) < MAX_EVENTS_PER_REQUEST and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _post(self, batch: list[SendGridEvent]) -> None:
        body = json.dumps(batch, separators=(",", ":")).encode()
        headers = self._signed(self._key, body)
        holding = True
        try:
            for pause in (*self._retries, None):
                if await self._taken(headers, body):
                    self.counts.posted += len(batch)
                    return
                if holding:
                    # A batch that waits for its retry must not keep the others from being posted.
                    self._slots.release()
                    holding = False
                if pause is None:
                    break
                await asyncio.sleep(pause)
            self.counts.given_up += len(batch)
            log.warning("webhook given up after %d attempts, %d events", len(self._retries) + 1, len(batch))
        finally:
            self.pending -= len(batch)
            if holding:
                self._slots.release()

    async def _forge(self, body: bytes) -> None:
        try:
            async with self._slots:
                taken = await self._taken(self._signed(self._forger, body), body)
        finally:
            self.pending -= 1
        self.counts.forged_refused += not taken
        if taken:
            log.error("the gateway took a forged webhook")

    async def _taken(self, headers: dict[str, str], body: bytes) -> bool:
        self.counts.attempts += 1
        try:
            async with self._session.post(self._url, data=body, headers=headers) as response:
                await response.read()
                if not response.ok:
                    log.info("webhook answered %d", response.status)
                return response.ok
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("webhook not answered: %s", type(error).__name__)
            return False

    def _signed(self, key: ec.EllipticCurvePrivateKey, body: bytes) -> dict[str, str]:
        timestamp = str(self._clock() // 1000)
        return {
            "Content-Type": "application/json",
            "User-Agent": "SendGrid Event API",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: sign(key, timestamp, body),
        }

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
