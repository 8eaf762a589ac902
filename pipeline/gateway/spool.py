"""The local spool: opens and clicks that Kafka did not confirm in time are kept in files and appended later.

The event buffer writes to it and the server runs `drain`. An event keeps its id, so one that reaches the log twice
(confirmed too late, or a crash between the append and the removal of its file) still counts once.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.spool_files import SpoolSegments
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ports import Log, LogEntry, NewId
from pipeline.runtime.sleep import sleep_unless
from topics.codec import NewerRecord, Undecodable, decode, encode
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

MIN_RETRY_DELAY_S: Final = 0.5
MAX_RETRY_DELAY_S: Final = 15.0
_APPEND_MAX_EVENTS: Final = 500
log = get_logger(__name__)


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
        """Return whether events are spooled; the log is unavailable then, so later events are spooled, too."""
        return self._wake.is_set()

    async def write(self, events: Sequence[DeliveryEvent]) -> bool:
        """Write events to disk; return False if that failed, after it was counted and logged."""
        if not events:
            return True
        is_written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._buffer.append(([encode(DELIVERY_EVENTS, event) for event in events], is_written))
        async with self._lock:
            await self._flush()
        return await is_written

    async def drain(self, stop: asyncio.Event) -> None:
        """Move spooled events to the log, with back-off, until ``stop`` is set; the rest stays for the next start."""
        self._wake.set()
        delay = MIN_RETRY_DELAY_S
        while await self._wait_unless_stopped(self._wake, stop):
            delay = MIN_RETRY_DELAY_S if await self._drain_once() else min(delay * 2, MAX_RETRY_DELAY_S)
            if self.has_pending and delay > MIN_RETRY_DELAY_S:
                await sleep_unless(stop, delay)
        self.close()

    def close(self) -> None:
        """Close and unlock the current file, so that another process may drain it."""
        self._segments.rotate()

    async def _flush(self) -> None:
        """Write the lines of all waiting callers with one sync, and tell each whether that succeeded."""
        batch, self._buffer = self._buffer, []
        if not batch:
            return
        lines = [line for event_lines, _ in batch for line in event_lines]
        written = False
        try:
            await asyncio.to_thread(self._segments.write, lines, self._new_id())
            written = True
            self._metrics.spooled.inc(len(lines))
            self._metrics.spool_events.inc(len(lines))
            self._wake.set()
        except OSError as error:
            log.error("opens or clicks lost, the spool can't be written", events=len(lines), error=str(error))
            self._metrics.spool_lost.inc(len(lines))
        finally:
            for _, is_written in batch:
                if not is_written.done():
                    is_written.set_result(written)

    async def _drain_once(self) -> bool:
        """Append every pending file to the log; return False if the log is still unavailable."""
        async with self._lock:
            self._segments.rotate()
            self._wake.clear()
        for path in self._segments.pending():
            if not await self._append_file(path):
                self._wake.set()
                return False
        if not self.has_pending:
            self._metrics.spool_events.set(0)
        return True

    async def _append_file(self, path: Path) -> bool:
        """Append one file's events to the log; return False if the log is still unavailable."""
        with self._segments.locked_lines(path) as lines:
            if lines is None:
                return True
            unreadable = 0
            for start in range(0, len(lines), _APPEND_MAX_EVENTS):
                batch = lines[start : start + _APPEND_MAX_EVENTS]
                events = _decode_events(batch)
                unreadable += len(batch) - len(events)
                if None in await self._log.append([LogEntry(DELIVERY_EVENTS, e.email_id, e) for e in events]):
                    return False
            if unreadable:
                log.error("spool file has undecodable lines, kept as *.unreadable", lines=unreadable, file=str(path))
            self._segments.finish(path, readable=not unreadable)
        self._metrics.unspooled.inc(len(lines) - unreadable)
        return True

    @staticmethod
    async def _wait_unless_stopped(event: asyncio.Event, stop: asyncio.Event) -> bool:
        """Wait for either event; return False once ``stop`` is set."""
        tasks = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return not stop.is_set()


def _decode_events(lines: list[bytes]) -> list[DeliveryEvent]:
    """Return the events of those lines that can be decoded."""
    events = []
    for line in lines:
        with contextlib.suppress(Undecodable, NewerRecord):
            events.append(decode(DELIVERY_EVENTS, line))
    return events
