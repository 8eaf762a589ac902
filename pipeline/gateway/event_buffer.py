"""What pixels and links heard -> the log, in batches, behind the answers; what it doesn't take in time -> the spool.

A person waits for the picture and, worse, for the page behind the link: so the answer goes first,
and what a request meant is worked out afterwards. Between the two an event is in memory, for about
as long as one append; SIGTERM writes it down, a crash of the machine loses it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.gateway.metrics import Metrics
from pipeline.gateway.spool import Spool
from pipeline.runtime.ports import Entry, Log
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

APPEND_S: Final = 0.05
"""What the log has to confirm a batch; then the spool takes it."""
AT_ONCE: Final = 200
"""Notes of one batch: their work holds up answers for a few milliseconds."""
BEHIND: Final = 4_000
"""With more than this in hand the log is too slow, and the spool, which takes thousands in one write, relieves it."""
MOST: Final = 40_000
"""Kept in memory at most, some 40 MB; what comes on top is lost, and counted."""
ENDING_S: Final = 3.0

Note = Callable[[], DeliveryEvent | None]
"""What a request meant, worked out when it is called; None for what came to nothing."""


class Notes:
    """One gateway's."""

    def __init__(self, log: Log, spool: Spool, metrics: Metrics) -> None:
        self._log = log
        self._spool = spool
        self._metrics = metrics
        self._waiting: deque[Note] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        metrics.notes.set_function(lambda: len(self._waiting))

    def put(self, note: Note) -> None:
        """Take it; never waits, never fails."""
        if len(self._waiting) >= MOST:
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
        await asyncio.wait([running], timeout=ENDING_S)
        running.cancel()
        await asyncio.wait([running], timeout=ENDING_S)

    async def _write(self) -> None:
        behind = len(self._waiting) > BEHIND
        events = await self._take(BEHIND if behind else AT_ONCE)
        if behind or self._spool.busy:
            # The log is known to be away or slow: what follows goes behind what waits in the spool.
            await self._spool.keep(events)
        elif events:
            places = await self._log.append([Entry(DELIVERY_EVENTS, e.email_id, e) for e in events], within=APPEND_S)
            await self._spool.keep([event for event, place in zip(events, places, strict=True) if place is None])

    async def _take(self, most: int) -> list[DeliveryEvent]:
        events = []
        for taken in range(1, min(most, len(self._waiting)) + 1):
            event = self._waiting.popleft()()
            if event is not None:
                events.append(event)
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)
        return events
