"""What pixels and links heard -> the log, in batches, behind the answers; what it doesn't take in time -> the spool.

A person waits for the picture and, worse, for the page behind the link: so the answer goes first,
and what a request meant is worked out afterwards. Between the two an event is in memory, for about
as long as one append; SIGTERM writes it down, a crash of the machine loses it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.spool import Spool
from pipeline.runtime.ports import Log, LogEntry
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

APPEND_TIMEOUT_S: Final = 0.05
"""What the log has to confirm a batch; then the spool takes it."""
BATCH_MAX_EVENTS: Final = 200
"""Notes of one batch: their work holds up answers for a few milliseconds."""
SPOOL_THRESHOLD_EVENTS: Final = 4_000
"""With more than this in hand the log is too slow, and the spool, which takes thousands in one write, relieves it."""
BUFFER_MAX_EVENTS: Final = 40_000
"""Kept in memory at most, some 40 MB; what comes on top is lost, and counted."""
FINISH_TIMEOUT_S: Final = 3.0

DeferredEvent = Callable[[], DeliveryEvent | None]
"""What a request meant, worked out when it is called; None for what came to nothing."""


class EventBuffer:
    """One gateway's."""

    def __init__(self, log: Log, spool: Spool, metrics: GatewayMetrics) -> None:
        self._log = log
        self._spool = spool
        self._metrics = metrics
        self._waiting: deque[DeferredEvent] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        metrics.buffered_events.set_function(lambda: len(self._waiting))

    def put(self, note: DeferredEvent) -> None:
        """Take it; never waits, never fails."""
        if len(self._waiting) >= BUFFER_MAX_EVENTS:
            self._metrics.spool_lost.inc()
            return
        self._waiting.append(note)
        self._wake.set()

    async def run(self) -> None:
        """Write down what comes, until :meth:`finish`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write()
            if self._ending:
                return

    async def finish(self, running: "asyncio.Task[None]") -> None:
        """No more will come: what is in hand goes to the log or the spool, bounded in time."""
        self._ending = True
        self._wake.set()
        await asyncio.wait([running], timeout=FINISH_TIMEOUT_S)
        running.cancel()
        await asyncio.wait([running], timeout=FINISH_TIMEOUT_S)

    async def _write(self) -> None:
        behind = len(self._waiting) > SPOOL_THRESHOLD_EVENTS
        events = await self._take(SPOOL_THRESHOLD_EVENTS if behind else BATCH_MAX_EVENTS)
        if behind or self._spool.has_pending:
            # The log is known to be away or slow: what follows goes behind what waits in the spool.
            await self._spool.write(events)
        elif events:
            places = await self._log.append(
                [LogEntry(DELIVERY_EVENTS, e.email_id, e) for e in events], within=APPEND_TIMEOUT_S
            )
            await self._spool.write([event for event, place in zip(events, places, strict=True) if place is None])

    async def _take(self, most: int) -> list[DeliveryEvent]:
        events = []
        for taken in range(1, min(most, len(self._waiting)) + 1):
            event = self._waiting.popleft()()
            if event is not None:
                events.append(event)
            if taken % BATCH_MAX_EVENTS == 0:
                await asyncio.sleep(0)
        return events
