"""Opens and clicks that the log didn't take in time -> a local file, and from there to the log later.

An event keeps its id on the way, so one that reaches the log twice (confirmed too late, or a crash
between append and unlink) is one event.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.spool_files import SpoolSegments
from pipeline.runtime.ports import Log, LogEntry, NewId
from pipeline.runtime.sleep import sleep_unless
from topics.codec import Undecodable, decode, encode
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

MIN_RETRY_DELAY_S: Final = 0.5
MAX_RETRY_DELAY_S: Final = 15.0
_BATCH_MAX_EVENTS: Final = 500
log = logging.getLogger(__name__)


class Spool:
    """The local spool of one gateway."""

    def __init__(self, folder: Path, destination: Log, new_id: NewId, metrics: GatewayMetrics) -> None:
        self._segments = SpoolSegments(folder)
        self._log = destination
        self._new_id = new_id
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._buffer: list[tuple[list[bytes], asyncio.Future[bool]]] = []

    @property
    def has_pending(self) -> bool:
        """Whether something waits here: then the log is known to be away, and what follows goes behind it."""
        return self._wake.is_set()

    async def write(self, events: Sequence[DeliveryEvent]) -> bool:
        """Write them to the disk; False if even that failed (counted, logged)."""
        if not events:
            return True
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._buffer.append(([encode(DELIVERY_EVENTS, event) for event in events], kept))
        async with self._lock:
            await self._flush()
        return await kept

    async def drain(self, stop: asyncio.Event) -> None:
        """Bring what waits to the log, with back-off, until ``stop``; what is left waits for the next start."""
        self._wake.set()
        delay = MIN_RETRY_DELAY_S
        while await self._or_stop(self._wake, stop):
            delay = MIN_RETRY_DELAY_S if await self._drain_once() else min(delay * 2, MAX_RETRY_DELAY_S)
            if self.has_pending and delay > MIN_RETRY_DELAY_S:
                await sleep_unless(stop, delay)
        self.close()

    def close(self) -> None:
        """Let go of the file: whoever comes next may bring what is in it."""
        self._segments.rotate()

    async def _flush(self) -> None:
        """Whoever holds the lock writes for all who wait: one sync for many."""
        batch, self._buffer = self._buffer, []
        if not batch:
            return
        lines = [line for some, _ in batch for line in some]
        done = False
        try:
            await asyncio.to_thread(self._segments.write, lines, self._new_id())
            done = True
            self._metrics.spooled.inc(len(lines))
            self._metrics.spool_events.inc(len(lines))
            self._wake.set()
        except OSError as error:
            log.error("%d opens or clicks are lost, the spool can't be written: %s", len(lines), error)
            self._metrics.spool_lost.inc(len(lines))
        finally:
            for _, kept in batch:
                if not kept.done():
                    kept.set_result(done)

    async def _drain_once(self) -> bool:
        async with self._lock:
            self._segments.rotate()
            self._wake.clear()
        for path in self._segments.pending():
            if not await self._bring(path):
                self._wake.set()
                return False
        if not self.has_pending:
            self._metrics.spool_events.set(0)
        return True

    async def _bring(self, path: Path) -> bool:
        """One file to the log; False if the log is still away."""
        with self._segments.locked_lines(path) as lines:
            if lines is None:
                return True
            unreadable = 0
            for start in range(0, len(lines), _BATCH_MAX_EVENTS):
                some = lines[start : start + _BATCH_MAX_EVENTS]
                events = _read(some)
                unreadable += len(some) - len(events)
                if None in await self._log.append([LogEntry(DELIVERY_EVENTS, e.email_id, e) for e in events]):
                    return False
            if unreadable:
                log.error("%d lines of %s can't be read; it is kept as *.unreadable", unreadable, path)
            self._segments.finish(path, readable=not unreadable)
        self._metrics.unspooled.inc(len(lines) - unreadable)
        return True

    @staticmethod
    async def _or_stop(event: asyncio.Event, stop: asyncio.Event) -> bool:
        """Wait for either; False once ``stop`` is set."""
        tasks = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return not stop.is_set()


def _read(lines: list[bytes]) -> list[DeliveryEvent]:
    """Those that are events."""
    events = []
    for line in lines:
        with contextlib.suppress(Undecodable):
            events.append(decode(DELIVERY_EVENTS, line))
    return events
