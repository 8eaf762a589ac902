"""Circuit breakers of the providers, shared by all dispatchers through Postgres. Called by the provider router.

Each is the breaker of a lane of the job queue, in a queue of its own (`provider`), so that `mailfold status` and
`mailfold lanes` show it and an operator can pause a provider.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.dispatch.routing.routes import SQL
from pipeline.jobs.job import UNHEALTHY, EndpointHealth
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.postgres.database import Pool

QUEUE: Final = "provider"
STATE_TTL_S: Final = 1.0
"""Seconds for which the state read from Postgres is used before it is read again."""


@dataclass(frozen=True, slots=True)
class _BreakerState:
    trips: int
    open: bool
    paused: bool


class ProviderBreakers:
    """The breakers of all providers, with a short-lived copy of their state."""

    def __init__(self, pool: Pool, probe_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._probe_seconds = probe_seconds
        self._store = JobStore(pool, QUEUE, ClaimLimits(1, 1, probe_seconds))
        self._now = now
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._cached_states: dict[str, _BreakerState] = {}

    async def is_up(self, provider: str) -> bool:
        """Return whether mail may go to the provider now.

        When the pause of an open breaker is over, this claims the probe: one process at a time gets True.
        """
        state = (await self._states()).get(provider)
        if state is None or (not state.trips and not state.paused):
            return True
        if state.paused or state.open:
            return False
        async with self._pool.connection() as connection:
            values = {"provider": provider, "seconds": self._probe_seconds}
            return await (await connection.execute(SQL["probe"], values)).fetchone() is not None

    async def record_health(self, provider: str, health: EndpointHealth) -> None:
        """Record the health that a result showed; nothing is written for a healthy provider with no failures."""
        if health in UNHEALTHY:
            await self._store.record_lane_health({provider: [health]}, set())
        elif health is EndpointHealth.HEALTHY and provider in await self._states():
            await self._store.record_lane_health({}, {provider})
        else:
            return
        self._read_at = float("-inf")

    async def _states(self) -> dict[str, _BreakerState]:
        # Concurrent callers wait for the read that is in progress instead of using the expired state.
        async with self._reading:
            started_at = self._now()
            if started_at - self._read_at >= STATE_TTL_S:
                async with self._pool.connection() as connection:
                    rows = await (await connection.execute(SQL["health"])).fetchall()
                self._cached_states = {name: _BreakerState(*values) for name, *values in rows}
                self._read_at = started_at
        return self._cached_states
