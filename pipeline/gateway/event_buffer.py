"""The buffer of opens and clicks: they are answered first, then appended to the log in batches, or spooled.

The tracking routes put events in and the server runs it. The answer comes first because a person waits for the page
behind a link. Until its batch is written, about as long as one append takes, an event is only in memory: SIGTERM
writes it, a crash loses it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.spool import Spool
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer, email_attributes
from pipeline.runtime.ports import Log, LogEntry
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

APPEND_TIMEOUT_S: Final = 0.05
"""Seconds in which the log has to confirm a batch; after that it is spooled."""
BATCH_MAX_EVENTS: Final = 200
"""A batch of this size blocks the event loop, and so other answers, for a few milliseconds."""
SPOOL_THRESHOLD_EVENTS: Final = 4_000
"""If more are buffered, the log is too slow: events go to the spool, which takes thousands in one write."""
BUFFER_MAX_EVENTS: Final = 40_000
"""Events in memory, about 40 MB; further ones are lost, and counted."""
FINISH_TIMEOUT_S: Final = 3.0

DeferredEvent = Callable[[], DeliveryEvent | None]
"""Makes a request's event when it is called; returns None if the request is not recorded."""


class EventBuffer:
    """The opens and clicks of one gateway that are answered and not yet written."""

    def __init__(self, log: Log, spool: Spool, metrics: GatewayMetrics, tracer: Tracer = NO_TRACER) -> None:
        self._log = log
        self._tracer = tracer
        self._spool = spool
        self._metrics = metrics
        self._buffered: deque[DeferredEvent] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        metrics.buffered_events.set_function(lambda: len(self._buffered))

    def put(self, event: DeferredEvent) -> None:
        """Add an event without waiting; if the buffer is full, the event is lost and counted."""
        if len(self._buffered) >= BUFFER_MAX_EVENTS:
            self._metrics.spool_lost.inc()
            return
        self._buffered.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Write events as they come, until :meth:`finish` is called."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._buffered:
                await self._write()
            if self._ending:
                return

    async def finish(self, running: "asyncio.Task[None]") -> None:
        """Let the task ``running``, which runs :meth:`run`, write what is buffered; cancel it if that takes too long.

        Call it when no more events will come.
        """
        self._ending = True
        self._wake.set()
        await asyncio.wait([running], timeout=FINISH_TIMEOUT_S)
        running.cancel()
        await asyncio.wait([running], timeout=FINISH_TIMEOUT_S)

    async def _write(self) -> None:
        is_late = len(self._buffered) > SPOOL_THRESHOLD_EVENTS
        events = await self._take(SPOOL_THRESHOLD_EVENTS if is_late else BATCH_MAX_EVENTS)
        if is_late or self._spool.has_pending:
            # The log is unavailable or slow: an append would only wait for its timeout.
            await self._spool.write(events)
        elif events:
            entries = [LogEntry(DELIVERY_EVENTS, e.email_id, e) for e in events]
            attributes = email_attributes({e.email_id for e in events}) if self._tracer.is_on else {}
            with self._tracer.request_span("opens and clicks", attributes):
                places = await self._log.append(entries, within=APPEND_TIMEOUT_S)
            await self._spool.write([event for event, place in zip(events, places, strict=True) if place is None])

    async def _take(self, max_events: int) -> list[DeliveryEvent]:
        """Remove the oldest events from the buffer and return those that are to be recorded."""
        events = []
        for taken in range(1, min(max_events, len(self._buffered)) + 1):
            event = self._buffered.popleft()()
            if event is not None:
                events.append(event)
            if taken % BATCH_MAX_EVENTS == 0:
                await asyncio.sleep(0)
        return events
