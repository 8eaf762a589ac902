"""What answers told of providers in, who is up out: each provider's breaker, shared by all dispatchers.

It is the outbox's breaker, kept as a lane of a queue of its own (`provider`), so that `mailfold status` and
`mailfold lanes` show it, and an operator may pause a provider as well.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.database import Pool
from pipeline.outbox.job import Lane
from pipeline.outbox.store import Limits, Store
from pipeline.routing.ways import SQL

QUEUE: Final = "provider"
FRESH: Final = 1.0
"""Seconds that what others found out is believed."""


@dataclass(frozen=True, slots=True)
class _State:
    failures: int
    trips: int
    open: bool
    paused: bool
    open_for: float


class Health:
    """Asks and tells how providers are."""

    def __init__(self, pool: Pool, probe_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._probe_seconds = probe_seconds
        self._store = Store(pool, QUEUE, Limits(1, 1, probe_seconds))
        self._now = now
        self._read_at = float("-inf")
        self._known: dict[str, _State] = {}

    async def up(self, provider: str) -> bool:
        """Whether mail may go there now; after a pause, one mail at a time finds out."""
        state = (await self._states()).get(provider)
        if state is None or (not state.trips and not state.paused):
            return True
        if state.paused or state.open:
            return False
        async with self._pool.connection() as connection:
            values = {"provider": provider, "seconds": self._probe_seconds}
            return await (await connection.execute(SQL["probe"], values)).fetchone() is not None

    async def told(self, provider: str, news: Lane) -> None:
        """What an answer told of a provider; good news cost nothing where nothing was wrong."""
        if news in (Lane.FAILING, Lane.BROKEN):
            await self._store.tell({provider: [news]}, set())
        elif news is Lane.HEALTHY and provider in await self._states():
            await self._store.tell({}, {provider})
        else:
            return
        self._read_at = float("-inf")

    async def _states(self) -> dict[str, _State]:
        if self._now() - self._read_at >= FRESH:
            self._read_at = self._now()
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(SQL["health"])).fetchall()
            self._known = {row[0]: _State(row[1], row[2], bool(row[3]), row[4], row[5]) for row in rows}
        return self._known
