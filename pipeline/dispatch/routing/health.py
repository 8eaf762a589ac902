"""What answers told of providers in, who is up out: each provider's breaker, shared by all dispatchers.

It is the outbox's breaker, kept as a lane of a queue of its own (`provider`), so that `mailfold status` and
`mailfold lanes` show it, and an operator may pause a provider as well.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.dispatch.routing.routes import SQL
from pipeline.jobs.job import EndpointHealth
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.database import Pool

QUEUE: Final = "provider"
STATE_TTL_S: Final = 1.0
"""Seconds that what others found out is believed."""


@dataclass(frozen=True, slots=True)
class _BreakerState:
    trips: int
    open: bool
    paused: bool


class ProviderBreakers:
    """Asks and tells how providers are."""

    def __init__(self, pool: Pool, probe_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._probe_seconds = probe_seconds
        self._store = JobStore(pool, QUEUE, ClaimLimits(1, 1, probe_seconds))
        self._now = now
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._known: dict[str, _BreakerState] = {}

    async def is_up(self, provider: str) -> bool:
        """Whether mail may go there now; after a pause, one mail at a time finds out."""
        state = (await self._states()).get(provider)
        if state is None or (not state.trips and not state.paused):
            return True
        if state.paused or state.open:
            return False
        async with self._pool.connection() as connection:
            values = {"provider": provider, "seconds": self._probe_seconds}
            return await (await connection.execute(SQL["probe"], values)).fetchone() is not None

    async def record_health(self, provider: str, news: EndpointHealth) -> None:
        """What an answer told of a provider; good news cost nothing where nothing was wrong."""
        if news in (EndpointHealth.FAILING, EndpointHealth.BROKEN):
            await self._store.record_lane_health({provider: [news]}, set())
        elif news is EndpointHealth.HEALTHY and provider in await self._states():
            await self._store.record_lane_health({}, {provider})
        else:
            return
        self._read_at = float("-inf")

    async def _states(self) -> dict[str, _BreakerState]:
        # Who asks while somebody reads waits for what is read: an answer from before is as good as none.
        async with self._reading:
            begun = self._now()
            if begun - self._read_at >= STATE_TTL_S:
                async with self._pool.connection() as connection:
                    rows = await (await connection.execute(SQL["health"])).fetchall()
                self._known = {name: _BreakerState(*values) for name, *values in rows}
                self._read_at = begun
        return self._known
