"""Appends ticks to partitions of `email-changes` whose projected time is behind the other partitions'.

A listing shows a moment up to which *every* partition is projected (:mod:`projections.history`), and without changes a
partition's time stands still. So the projector that has the partition appends the current time to it and reads it back
in its place on the log. Where no change is hidden no tick is appended: an idle installation's log doesn't grow.
"""

import contextlib
from collections.abc import Callable, Collection
from typing import Final

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.sleep import sleep_unless
from projections.history_queries import partition_times
from topics.changes import Tick
from topics.record import Millis
from topics.registry import EMAIL_CHANGES

PERIOD_S: Final = 0.25
"""Seconds between two checks for due ticks."""
BUSY_TICK_INTERVAL_MS: Final = 1_000
"""Milliseconds between two ticks of one partition while changes come in; once they stop, the last one comes at once."""
LOST_TICK_TIMEOUT_MS: Final = 10_000
"""Milliseconds after which a tick that was not projected is appended again: it may never have reached the log."""


class Ticker:
    """Appends ticks to the partitions of one projector."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._last_tick_at: dict[int, Millis] = {}
        self._last_change_at: Millis = 0

    async def run(self, assigned_partitions: Callable[[], Collection[int]]) -> None:
        """Append due ticks until ``rt.stop``; ``assigned_partitions`` returns the projector's current partitions."""
        while not self._rt.stop.is_set():
            # The partition projectors log an outage of Postgres and wait for its end.
            with contextlib.suppress(*DATABASE_UNAVAILABLE_ERRORS):
                await self.append_due_ticks(assigned_partitions())
            await sleep_unless(self._rt.stop, PERIOD_S)

    async def append_due_ticks(self, partitions: Collection[int]) -> None:
        """Append a tick to each of these partitions where one is due."""
        async with self._rt.pool.connection() as connection:
            times = await partition_times(connection)
        now = self._rt.clock()
        last_change_at = max((at for _, _, at in times), default=0)
        is_quiet, self._last_change_at = last_change_at == self._last_change_at, last_change_at
        # A tick can't reach beyond a change with a time in the future; without any change nothing is hidden.
        hidden_until = min(last_change_at, now - 1) if last_change_at else -1
        due = [
            partition
            for partition, through, _ in times
            if partition in partitions and through <= hidden_until and self._is_due(partition, through, now, is_quiet)
        ]
        self._last_tick_at |= dict.fromkeys(due, now)
        if due:
            tick = Tick(recorded_at=now)
            await self._rt.log.append([LogEntry(EMAIL_CHANGES, None, tick, partition) for partition in due])

    def _is_due(self, partition: int, through: Millis, now: Millis, is_quiet: bool) -> bool:
        last_tick_at = self._last_tick_at.get(partition, 0)
        is_projected = last_tick_at <= through
        if is_projected and is_quiet:
            return True
        # If the clock was set back, the age of the last tick is negative; a tick is due then, too.
        return not 0 <= now - last_tick_at < (BUSY_TICK_INTERVAL_MS if is_projected else LOST_TICK_TIMEOUT_MS)
