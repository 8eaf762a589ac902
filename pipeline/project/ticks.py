"""How far each partition is projected in time in, a tick on each partition that holds back what others show out.

A listing is as of a moment that is projected of *every* partition (:mod:`projections.history`), and
a partition where nothing changes has no time of its own. So the projector that has it appends what
time it is, and reads that back in its place on the log. Where nothing is hidden nothing is
appended: an idle installation's log doesn't grow.
"""

import contextlib
from collections.abc import Callable, Collection
from typing import Final

from pipeline.project.partition import DATABASE_CONNECTION_ERRORS
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.sleep import sleep_unless
from projections.postgres import partition_times
from topics.changes import Tick
from topics.record import Millis
from topics.registry import EMAIL_CHANGES

PERIOD_S: Final = 0.25
BUSY_TICK_INTERVAL_MS: Final = 1_000
"""Between two ticks of one partition while changes come in; once they stop, the last one comes at once."""
LOST_TICK_TIMEOUT_MS: Final = 10_000
"""A tick that hasn't been projected after this long is appended again: it may never have arrived."""


class Ticker:
    """Says what time it is on the partitions of one projector."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._told: dict[int, Millis] = {}
        self._changed: Millis = 0

    async def run(self, mine: Callable[[], Collection[int]]) -> None:
        """Until ``rt.stop``; ``mine`` says which partitions this projector has now."""
        while not self._rt.stop.is_set():
            with contextlib.suppress(*DATABASE_CONNECTION_ERRORS):  # the lanes wait for it, and say so
                await self.append_due_ticks(mine())
            await sleep_unless(self._rt.stop, PERIOD_S)

    async def append_due_ticks(self, mine: Collection[int]) -> None:
        """Append a tick wherever one is due."""
        async with self._rt.pool.connection() as connection:
            times = await partition_times(connection)
        now = self._rt.clock()
        changed = max((at for _, _, at in times), default=0)
        quiet, self._changed = changed == self._changed, changed
        # What lies in our future can't be told past yet; where nothing ever changed there is nothing to show.
        hidden = min(changed, now - 1) if changed else -1
        due = [
            partition
            for partition, through, _ in times
            if partition in mine and through <= hidden and self._is_due(partition, through, now, quiet)
        ]
        self._told |= dict.fromkeys(due, now)
        if due:
            tick = Tick(recorded_at=now)
            await self._rt.log.append([LogEntry(EMAIL_CHANGES, None, tick, partition) for partition in due])

    def _is_due(self, partition: int, through: Millis, now: Millis, quiet: bool) -> bool:
        told = self._told.get(partition, 0)
        arrived = told <= through
        if arrived and quiet:
            return True
        # A clock that was set back makes the wait negative: that is due, too.
        return not 0 <= now - told < (BUSY_TICK_INTERVAL_MS if arrived else LOST_TICK_TIMEOUT_MS)
