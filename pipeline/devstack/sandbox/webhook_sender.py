"""Posting of webhooks as SendGrid does, in signed batches with retries; used by the sandbox's provider."""

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
from pipeline.runtime.tasks import cancel_tasks

log = logging.getLogger(__name__)

RETRY_DELAYS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, *(300.0,) * 287)
"""Seconds between attempts: at most five minutes, for a day, after which SendGrid gives up, too."""

MAX_EVENTS_PER_REQUEST: Final = 500
BATCH_WINDOW_S: Final = 0.005
"""Seconds that a batch waits for more events."""

MAX_REQUESTS_IN_FLIGHT: Final = 8
MAX_PENDING_EVENTS: Final = 50_000
"""Events planned, waiting or being retried; at this number the sandbox defers mail."""


@dataclass
class WebhookCounts:
    """Counts of events by outcome, and of requests."""

    posted: int = 0
    forged_refused: int = 0
    """Forged events that the gateway refused, as it must."""
    given_up: int = 0
    attempts: int = 0


class WebhookSender:
    """A queue of events and the requests in flight; :meth:`run` posts them."""

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
        self._forged_key = ec.generate_private_key(ec.SECP256R1())
        self.pending = 0
        self.counts = WebhookCounts()

    @property
    def is_full(self) -> bool:
        """Return whether so many events are pending that mail must be deferred."""
        return self.pending >= MAX_PENDING_EVENTS

    def put(self, event: SendGridEvent) -> None:
        """Queue an event that the caller has counted in ``pending``."""
        self._queue.put_nowait(event)

    def send_forged(self, event: SendGridEvent) -> None:
        """Post an event alone and once, signed with a key that the gateway does not know."""
        self._start_task(self._post_forged(json.dumps([event]).encode()))

    async def run(self) -> None:
        """Post batches until cancelled."""
        try:
            while True:
                batch = await self._next_batch()
                await self._slots.acquire()
                self._start_task(self._post(batch))
        finally:
            await cancel_tasks(list(self._tasks))

    async def _next_batch(self) -> list[SendGridEvent]:
        batch = [await self._queue.get()]
        await asyncio.sleep(BATCH_WINDOW_S)
        while len(batch) < MAX_EVENTS_PER_REQUEST and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _post(self, batch: list[SendGridEvent]) -> None:
        body = json.dumps(batch, separators=(",", ":")).encode()
        headers = self._signed_headers(self._key, body)
        holds_slot = True
        try:
            for pause in (*self._retries, None):
                if await self._is_accepted(headers, body):
                    self.counts.posted += len(batch)
                    return
                if holds_slot:
                    # While a batch waits for its retry, others may be posted.
                    self._slots.release()
                    holds_slot = False
                if pause is None:
                    break
                await asyncio.sleep(pause)
            self.counts.given_up += len(batch)
            log.warning("webhook abandoned after %d attempts, %d events", len(self._retries) + 1, len(batch))
        finally:
            self.pending -= len(batch)
            if holds_slot:
                self._slots.release()

    async def _post_forged(self, body: bytes) -> None:
        try:
            async with self._slots:
                accepted = await self._is_accepted(self._signed_headers(self._forged_key, body), body)
        finally:
            self.pending -= 1
        self.counts.forged_refused += not accepted
        if accepted:
            log.error("the gateway accepted a forged webhook")

    async def _is_accepted(self, headers: dict[str, str], body: bytes) -> bool:
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

    def _signed_headers(self, key: ec.EllipticCurvePrivateKey, body: bytes) -> dict[str, str]:
        timestamp = str(self._clock() // 1000)
        return {
            "Content-Type": "application/json",
            "User-Agent": "SendGrid Event API",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: sign(key, timestamp, body),
        }

    def _start_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
