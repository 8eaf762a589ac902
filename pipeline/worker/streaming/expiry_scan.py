"""The expiry scan: reads through each partition's stored states and removes the expired ones.

A step reads a few states; a scan of a whole partition takes about a day. Nothing is awaited between reading a state
and queueing its removal, so no fact can be folded in between: one that was folded earlier keeps the state, one that
is folded later starts a new state. `app` runs it as a task of the worker.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipeline.errors import PartitionNotAssigned
from pipeline.runtime.observing.logs import get_logger
from pipeline.worker.streaming.partitions import PartitionWriter, PartitionWriters
from pipeline.worker.streaming.store import KeyedState, StateStore

MIN_SCAN_INTERVAL_S: Final = 0.1
"""Seconds between two steps of one partition, at least; a step takes about a thousandth of this."""
MAX_SCAN_INTERVAL_S: Final = 60.0
"""Seconds between two steps, at most; a small partition is scanned more often than necessary."""

FindExpired = Callable[[Sequence[KeyedState]], Sequence[bytes]]
"""A function that returns the keys of the expired states among the given ones."""

_log = get_logger("mailfold.worker")


class ExpiryScan:
    """Scans the stores of all assigned partitions in turn."""

    def __init__(
        self,
        writers: PartitionWriters,
        store: StateStore,
        app: Any,
        find_expired: FindExpired,
        scan_duration_s: float,
    ) -> None:
        """Scan each partition once in ``scan_duration_s`` seconds."""
        self._writers = writers
        self._store = store
        self._app = app
        self._find_expired = find_expired
        self._scan_duration_s = scan_duration_s
        self._due_at: dict[int, float] = {}
        self._removed: Counter[int] = Counter()

    async def run(self) -> None:
        """Scan until the worker ends."""
        while not self._app.should_stop:
            await asyncio.sleep(MIN_SCAN_INTERVAL_S)
            for writer in self._writers:
                now = self._app.loop.time()
                if self._due_at.setdefault(writer.partition, now + self._pause_s) <= now and self._is_settled():
                    # A partition may be revoked at any moment; its writer is closed shortly after.
                    with contextlib.suppress(PartitionNotAssigned):
                        self._due_at[writer.partition] = now + self.scan_next(writer)
                    await asyncio.sleep(0)  # let other tasks run between two partitions

    def scan_next(self, writer: PartitionWriter) -> float:
        """Scan the next few states; return the seconds until the next step. Raises PartitionNotAssigned."""
        number = writer.partition
        states = self._store.next_states(number, self._store.scan_position(number))
        self._removed[number] += writer.expire(self._find_expired(states))
        self._store.save_scan_position(number, states[-1][0] if states else b"")
        if states:
            interval = self._scan_duration_s * len(states) / self._store.size(number)
            return min(max(interval, MIN_SCAN_INTERVAL_S), MAX_SCAN_INTERVAL_S)
        if removed := self._removed.pop(number):
            self._store.compact_removed(number)
            _log.info("expired states removed from the table", partition=number, states=removed)
        return self._pause_s

    @property
    def _pause_s(self) -> float:
        return min(self._scan_duration_s, MAX_SCAN_INTERVAL_S)

    def _is_settled(self) -> bool:
        """Return whether the stores match the log: not during a rebalance, recovery or shutdown."""
        return not (self._app.rebalancing or self._app.in_recovery or self._app.should_stop)
