"""Whether a role is alive and ready, and what refreshes its gauges; `ops_server` asks, each role's `main` says.

Alive: its event loop runs. Ready: it does its work now; a role that is still catching up with the log is not.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka.log import KafkaLog
from pipeline.runtime.observing.role_metrics import RoleMetrics
from pipeline.runtime.observing.watchdog import Watchdog
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool, ping_database
from pipeline.runtime.ttl_cache import TTLCache

PROBE_TIMEOUT_S: Final = 3.0
READINESS_TTL_S: Final = 1.0
"""Seconds for which `/readyz` repeats its last result: anybody may call it, and each check costs Kafka and Postgres."""
ALIVE_MAX_STALL_S: Final = 15.0
"""Seconds without a turn of the event loop after which a role is not alive. A store that is opened or a large batch may
take seconds; what takes longer does not end by itself."""

FindProblems = Callable[[], Awaitable[Mapping[str, str]]]
"""A function that returns why the role is not ready, by the name of what is wrong; nothing if it is."""
RefreshGauges = Callable[[], Awaitable[None]]
"""A function that sets gauges to their present values."""


class RoleHealth:
    """What one process says of itself."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.metrics = RoleMetrics()
        self._watchdog: Watchdog | None = None
        self._started = False
        self._checks: list[FindProblems] = []
        self._refreshes: list[RefreshGauges] = []
        self._readiness: TTLCache[str, dict[str, str]] = TTLCache(READINESS_TTL_S, 1)

    def add_check(self, find_problems: FindProblems) -> None:
        """Let ``find_problems`` decide, too, whether the role is ready."""
        self._checks.append(find_problems)

    def add_gauges(self, refresh: RefreshGauges) -> None:
        """Call ``refresh`` before the metrics are shown."""
        self._refreshes.append(refresh)

    def watch(self, watchdog: Watchdog) -> None:
        """Judge by this watchdog whether the event loop runs, and record its lag."""
        self._watchdog = watchdog
        watchdog.listen(self.metrics.record_loop_lag)

    def use_metrics(self, metrics: RoleMetrics) -> None:
        """Show these metrics, to which the role has added its own, instead of the common ones."""
        self.metrics = metrics
        if self._watchdog is not None:
            self._watchdog.listen(metrics.record_loop_lag)

    def finish_start(self) -> None:
        """Let the role be ready from now on, unless a check finds a problem."""
        self._started = True

    def stalled_seconds(self) -> float:
        """Return for how long the event loop has been blocked, 0 if it runs; called from any thread."""
        stalled = 0.0 if self._watchdog is None else self._watchdog.blocked_seconds()
        return stalled if stalled > ALIVE_MAX_STALL_S else 0.0

    async def find_problems(self) -> dict[str, str]:
        """Return why the role is not ready, by name; empty if it is."""
        if not self._started:
            return {"start": "not finished"}
        return await self._readiness.get("", self._run_checks)

    async def _run_checks(self, _: str) -> dict[str, str]:
        problems: dict[str, str] = {}
        for found in await asyncio.gather(*(check() for check in self._checks)):
            problems |= found
        return problems

    async def refresh_gauges(self) -> None:
        """Set all gauges to their present values, within a few seconds; count those that could not be read."""
        refreshes = [asyncio.wait_for(refresh(), PROBE_TIMEOUT_S) for refresh in self._refreshes]
        problems, *results = await asyncio.gather(self.find_problems(), *refreshes, return_exceptions=True)
        self.metrics.ready.set(problems == {})
        if failures := sum(isinstance(result, BaseException) for result in results):
            self.metrics.refresh_failures.inc(failures)


async def find_server_problems(log: KafkaLog, pool: Pool) -> dict[str, str]:
    """Return the reason for each of Kafka and Postgres that does not answer."""
    results = await asyncio.gather(_find_problem(log.ping()), _find_problem(ping_database(pool, PROBE_TIMEOUT_S)))
    return {name: problem for name, problem in zip(("kafka", "postgres"), results, strict=True) if problem}


async def _find_problem(ping: Awaitable[None]) -> str:
    """Return why a ping fails, or "" if it succeeds in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await ping
    except TimeoutError:
        return f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    except (LogUnavailable, *DATABASE_UNAVAILABLE_ERRORS) as error:
        # The type alone: the message may contain host names, and anybody may call /readyz.
        return f"does not answer ({type(error).__name__})"
    return ""
