"""Stored states in, tombstones of the quiet ones out: a walk through each partition's store that nobody notices.

A few states are looked at at a time, and all of a partition about once a day. Between the look at a state
and its tombstone's place in the lane nothing is awaited, so that no fact comes between them: what is folded
later finds the state gone and begins a new one; where something was folded before, the state stays.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from pipeline.errors import PartitionNotAssigned
from pipeline.worker.streaming.partitions import PartitionWriter, PartitionWriters
from pipeline.worker.streaming.store import KeyedState, StateStore

MIN_SCAN_INTERVAL_S: Final = 0.1
"""Seconds between two looks at one partition, at least: a thousandth of them is spent on it, about."""
MAX_SCAN_INTERVAL_S: Final = 60.0
"""Seconds between two looks, at most: a small partition is walked more often than it need be."""

FindExpired = Callable[[Sequence[KeyedState]], Sequence[bytes]]
"""The keys of those among stored states that may be forgotten."""

_log = logging.getLogger("mailfold.worker")


class ExpiryScan:
    """Through the stores of all lanes, in turn."""

    def __init__(
        self, lanes: PartitionWriters, store: StateStore, app: Any, find_quiet: FindExpired, lap: float
    ) -> None:
        self._lanes = lanes
        self._store = store
        self._app = app
        self._find_quiet = find_quiet
        self._lap = lap
        """Seconds in which a partition is walked once."""
        self._due: dict[int, float] = {}
        self._gone: Counter[int] = Counter()

    async def run(self) -> None:
        """Until the worker ends."""
        while not self._app.should_stop:
            await asyncio.sleep(MIN_SCAN_INTERVAL_S)
            for lane in self._lanes:
                now = self._app.loop.time()
                if self._due.setdefault(lane.partition, now + self._rest) <= now and self._is_settled():
                    with contextlib.suppress(
                        PartitionNotAssigned
                    ):  # it moves, and its lane will hear of it in a moment
                        self._due[lane.partition] = now + self.scan_next(lane)
                    await asyncio.sleep(0)  # one after the other, so that whoever waits need not wait for all

    def scan_next(self, lane: PartitionWriter) -> float:
        """Look at a few states; seconds until the next few. Raises NotOurs."""
        number = lane.partition
        states = self._store.next_states(number, self._store.scan_position(number))
        self._gone[number] += lane.expire(self._find_quiet(states))
        self._store.save_scan_position(number, states[-1][0] if states else b"")
        if states:
            return min(
                max(self._lap * len(states) / self._store.size(number), MIN_SCAN_INTERVAL_S), MAX_SCAN_INTERVAL_S
            )
        if gone := self._gone.pop(number):
            self._store.compact_removed(number)
            _log.info("partition %s: %s quiet states left the table", number, gone)
        return self._rest

    @property
    def _rest(self) -> float:
        return min(self._lap, MAX_SCAN_INTERVAL_S)

    def _is_settled(self) -> bool:
        """Whether the stores hold what the log does: not while partitions move, are recovered or are given back."""
        return not (self._app.rebalancing or self._app.in_recovery or self._app.should_stop)
