"""Measure how late a role's event loop is, and log what blocked it; every role starts a watchdog, most in bootstrap.

A timer on the loop, ten times a second, measures its own delay. A separate thread, which a blocked loop can't
stop, checks that the timer fires, and samples the loop's stack while it does not. Only places in the source are
logged, never values. Matching a regular expression holds the GIL, so the sample is taken when the match ends: it then
shows the function that called `re`, or the line right after the call.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from pipeline.runtime.observing.logs import get_logger

BEAT_INTERVAL_S: Final = 0.1
STALL_S: Final = 0.2
"""Seconds without a beat after which it is a stall, which is counted and logged with the code that ran."""
REPORT_AFTER_S: Final = 5.0
"""Seconds after which a stall that goes on is logged for the first time; each later report waits twice as long."""
MAX_FRAMES: Final = 4
MAX_SAMPLES: Final = 50

_ROOT: Final = str(Path(__file__).parents[3]) + "/"
_OWN_SOURCE_DIRS: Final = tuple(f"{_ROOT}{package}/" for package in ("pipeline", "projections", "topics"))

log = get_logger("mailfold.watchdog")

LagListener = Callable[[float, bool], None]
"""A function called at each beat, on the loop, with the beat's delay in seconds and whether that was a stall."""


class Watchdog:
    """Measures one event loop's lag and logs its stalls."""

    def __init__(self, role: str, loop: asyncio.AbstractEventLoop) -> None:
        self._role = role
        self._loop = loop
        self._listener: LagListener | None = None
        self._thread_id = threading.get_ident()
        self._running = threading.Lock()
        self._beaten_at = time.monotonic()
        self._cpu_at = time.thread_time()
        self._samples: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._watcher = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def listen(self, listener: LagListener) -> None:
        """Call this listener at each beat."""
        self._listener = listener

    def blocked_seconds(self) -> float:
        """Return the seconds since the last beat; called from any thread."""
        return time.monotonic() - self._beaten_at

    def start(self) -> None:
        """Start the beat and the thread; call it on the loop's own thread."""
        self._timer = self._loop.call_later(BEAT_INTERVAL_S, self._beat)
        self._running.acquire()
        self._watcher.start()

    def stop(self) -> None:
        """Stop the beat and the thread."""
        self._running.release()
        if self._timer is not None:
            self._timer.cancel()
        self._watcher.join(1.0)

    def _beat(self) -> None:
        now, cpu = time.monotonic(), time.thread_time()
        gap = now - self._beaten_at
        stalled = gap > STALL_S
        if stalled:
            self._report("event loop was blocked", gap, cpu - self._cpu_at)
        self._beaten_at, self._cpu_at = now, cpu
        if self._listener is not None:
            self._listener(max(0.0, gap - BEAT_INTERVAL_S), stalled)
        self._timer = self._loop.call_later(BEAT_INTERVAL_S, self._beat)

    def _report(self, what: str, seconds: float, cpu_seconds: float | None) -> None:
        # A long stall with little CPU time means that the machine was busy with other processes or this one was frozen.
        samples, self._samples = self._samples, Counter()
        place = samples.most_common(1)[0][0] if samples else "not sampled"
        cpu = None if cpu_seconds is None else round(cpu_seconds, 3)
        log.warning(
            what, role=self._role, seconds=round(seconds, 3), cpu_seconds=cpu, samples=samples.total(), at=place
        )

    def _watch(self) -> None:
        report_after = REPORT_AFTER_S
        # Waiting for a lock that stop() releases costs a third of waiting for an Event, and this thread wakes all day.
        while not self._running.acquire(timeout=max(BEAT_INTERVAL_S, self._beaten_at + STALL_S - time.monotonic())):
            blocked = self.blocked_seconds()
            if blocked < STALL_S:
                report_after = REPORT_AFTER_S
                continue
            frame = sys._current_frames().get(self._thread_id)
            if frame is not None and self._samples.total() < MAX_SAMPLES:
                self._samples[own_frames(frame)] += 1
            if blocked >= report_after:
                report_after *= 2
                self._report("event loop is still blocked", blocked, None)


def own_frames(frame: FrameType | None) -> str:
    """Return the innermost frames of our own code, innermost first; the innermost frame of all where none is ours."""
    own: list[str] = []
    innermost = frame
    while frame is not None and len(own) < MAX_FRAMES:
        if frame.f_code.co_filename.startswith(_OWN_SOURCE_DIRS):
            own.append(_place(frame))
        frame = frame.f_back
    return " < ".join(own) or (_place(innermost) if innermost is not None else "nowhere")


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename.removeprefix(_ROOT)}:{frame.f_lineno} {code.co_qualname}"


@contextlib.contextmanager
def watch_event_loop(role: str) -> Iterator[Watchdog]:
    """Watch the running event loop until the end of the block."""
    watchdog = Watchdog(role, asyncio.get_running_loop())
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
