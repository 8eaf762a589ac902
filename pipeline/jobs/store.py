"""The jobs in Postgres: claim and settle them in bulk, extend leases, and keep the state of lanes and breakers.

Called by the job engine, the breakers of providers and the commands for jobs and lanes.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from pipeline.errors import DatabaseReplaced, LeaseLost
from pipeline.jobs.job import UNHEALTHY, EndpointHealth, Job, JobResult
from pipeline.jobs.retry import Breaker, after_failures
from pipeline.runtime.postgres.database import Pool, autocommit_connection
from projections.sql import SqlQueries
from projections.text import storable_text

SQL = SqlQueries(Path(__file__).with_name("queries.sql"))

Connection = psycopg.AsyncConnection[Any]
Settlement = tuple[Job, JobResult]

MAX_ERROR_CHARS = 500


def notify_channel(queue: str) -> str:
    """Return the Postgres channel on which new jobs of a queue are announced."""
    return f"jobs_{queue}"


def storable_error(text: str) -> str:
    """Return the beginning of an error text, without characters that Postgres cannot store."""
    return storable_text(text[:MAX_ERROR_CHARS])


@dataclass(frozen=True)
class ClaimLimits:
    """How many jobs one process may hold, and for how many seconds it leases them."""

    max_jobs: int
    max_jobs_per_lane: int
    lease_s: float


class JobStore:
    """The jobs and lanes of one queue."""

    def __init__(self, pool: Pool, queue: str, limits: ClaimLimits) -> None:
        self._pool = pool
        self.queue = queue
        self._limits = limits

    async def claim(self, in_hand: Iterable[Job] = (), server: datetime | None = None) -> list[Job]:
        """Claim jobs that are due, within the limits; ``in_hand`` are the jobs that this process is working on.

        ``server`` is the time at which the only Postgres server started whose jobs may be claimed; None for any. Raise
        DatabaseReplaced, and claim nothing, where it is another one.
        """
        lanes: dict[str, int] = {}
        for job in in_hand:
            lanes[job.lane] = lanes.get(job.lane, 0) + 1
        values = {
            "queue": self.queue,
            "lanes": list(lanes),
            "in_hand": list(lanes.values()),
            "total": sum(lanes.values()),
            "limit": self._limits.max_jobs,
            "lane_limit": self._limits.max_jobs_per_lane,
            "lease": self._limits.lease_s,
            "token": uuid.uuid4(),
            "server": server,
        }
        async with autocommit_connection(self._pool) as connection:
            rows = await (await connection.execute(SQL["claim"], values)).fetchall()
        if server is not None and rows[0][0] != server:
            raise DatabaseReplaced
        return [Job(*job) for _, *job in rows if job[0] is not None]

    async def settle(self, settlements: Sequence[Settlement]) -> list[Job]:
        """Write results and the health of the lanes that they show.

        Returns the jobs whose lease was lost, so that their results were not written.
        """
        # Where all is well, one statement writes both; failures are counted in one transaction with their results.
        changes_lanes = any(result.health in UNHEALTHY or result.pause_reason for _, result in settlements)
        async with self._pool.connection() if changes_lanes else autocommit_connection(self._pool) as connection:
            missed = await self._write_results(connection, settlements, heal_lanes=not changes_lanes)
            # A row that another transaction changed at the same moment is missed once. A row missed twice is not ours.
            lost = await self._write_results(connection, missed, heal_lanes=not changes_lanes) if missed else []
            if changes_lanes:
                lost_keys = {(job.stream, job.seq) for job, _ in lost}
                written = [(job, result) for job, result in settlements if (job.stream, job.seq) not in lost_keys]
                await self._write_lanes(connection, written)
        return [job for job, _ in lost]

    async def _write_results(
        self, connection: Connection, settlements: Sequence[Settlement], *, heal_lanes: bool
    ) -> list[Settlement]:
        """Write results, close the breakers of healthy lanes with ``heal_lanes``, and return what missed its row."""
        values = self._keys([job for job, _ in settlements]) | {
            "states": [result.state.value for _, result in settlements],
            "delays": [float(result.delay_s) for _, result in settlements],
            "burnt": [result.counts_as_attempt for _, result in settlements],
            "errors": [storable_error(result.error) for _, result in settlements],
            "healthy": [heal_lanes and result.health is EndpointHealth.HEALTHY for _, result in settlements],
        }
        rows = await (await connection.execute(SQL["settle"], values)).fetchall()
        written = {(stream, seq) for stream, seq in rows}
        return [(job, result) for job, result in settlements if (job.stream, job.seq) not in written]

    async def settle_one(self, job: Job, result: JobResult) -> None:
        """Write one result. Raises LeaseLost if another worker may hold the job."""
        if await self.settle([(job, result)]):
            raise LeaseLost(f"{job.queue} {job.stream} {job.name}: the lease ran out before the outcome was written")

    async def extend_leases(self, jobs: Sequence[Job]) -> set[tuple[str, int]]:
        """Extend the leases of jobs; return the (stream, seq) of those that this process still holds."""
        values = self._keys(jobs) | {"lease": self._limits.lease_s}
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SQL["extend"], values)).fetchall()
        return {(stream, seq) for stream, seq in rows}

    async def park_blocked_jobs(self) -> None:
        """Postpone jobs that must wait for an earlier one of their email, so that claims do not scan them."""
        await self._execute("park")

    async def pause_lane(self, lane: str, reason: str) -> None:
        """Pause a lane until it is resumed."""
        await self._execute("pause", lane=lane, reason=reason)

    async def resume_lanes(self, lanes: Sequence[str]) -> list[str]:
        """Resume lanes, close their breakers and wake the workers; return the lanes that were paused or open."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(SQL["resume"], {"queue": self.queue, "lanes": list(lanes)})
            rows = await cursor.fetchall()
            await connection.execute(SQL["notify"], {"channel": notify_channel(self.queue)})
        return [lane for (lane,) in rows]

    async def lanes_paused_for(self, reason: str) -> list[str]:
        """Return the lanes that are paused for exactly this reason."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(SQL["paused_for"], {"queue": self.queue, "reason": reason})
            return [lane for (lane,) in await cursor.fetchall()]

    async def _execute(self, name: str, **values: Any) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(SQL[name], {"queue": self.queue, **values})

    def _keys(self, jobs: Sequence[Job]) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "streams": [job.stream for job in jobs],
            "seqs": [job.seq for job in jobs],
            "tokens": [job.token for job in jobs],
        }

    async def _write_lanes(self, connection: Connection, settlements: Sequence[Settlement]) -> None:
        failing: dict[str, list[EndpointHealth]] = {}
        for job, result in settlements:
            if result.health in UNHEALTHY:
                failing.setdefault(job.lane, []).append(result.health)
            if result.pause_reason:
                values = {"queue": self.queue, "lane": job.lane, "reason": result.pause_reason}
                await connection.execute(SQL["pause"], values)
        healthy = {job.lane for job, result in settlements if result.health is EndpointHealth.HEALTHY}
        await self._write_health(connection, failing, healthy)

    async def record_lane_health(
        self, failing: Mapping[str, Sequence[EndpointHealth]], healthy: Collection[str]
    ) -> None:
        """Record the health of lanes that was found without a job of theirs.

        ``failing`` has the failures of each lane in order; the lanes in ``healthy`` get closed breakers.
        """
        async with self._pool.connection() as connection:
            await self._write_health(connection, failing, healthy)

    async def _write_health(
        self, connection: Connection, failing: Mapping[str, Sequence[EndpointHealth]], healthy: Collection[str]
    ) -> None:
        if failing:
            await self._count_failures(connection, failing)
        if healthy:
            await connection.execute(SQL["lanes_heal"], {"queue": self.queue, "lanes": sorted(healthy)})

    async def _count_failures(self, connection: Connection, failing: Mapping[str, Sequence[EndpointHealth]]) -> None:
        values = {"queue": self.queue, "lanes": sorted(failing)}
        await connection.execute(SQL["lanes_known"], values)
        rows = await (await connection.execute(SQL["lanes_locked"], values)).fetchall()
        for lane, failures, trips, open_for in rows:
            new_failures = failing[lane]
            before, is_broken = Breaker(failures, trips, open_for), EndpointHealth.BROKEN in new_failures
            breaker = after_failures(before, len(new_failures), broken=is_broken)
            state = {"failures": breaker.failures, "trips": breaker.trips, "open_for": breaker.open_for}
            await connection.execute(SQL["lane_broken"], {"queue": self.queue, "lane": lane, **state})
