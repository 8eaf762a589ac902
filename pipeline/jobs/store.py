"""The engine's only way to Postgres: claims and settles jobs in bulk, keeps leases, lanes and breakers."""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pipeline.errors import LeaseLost
from pipeline.jobs.job import EndpointHealth, Job, JobResult
from pipeline.jobs.retry import Breaker, after_failures
from pipeline.runtime.database import Pool
from projections.sql import SqlQueries
from projections.text import storable_text

SQL = SqlQueries(Path(__file__).with_name("queries.sql"))

Connection = psycopg.AsyncConnection[Any]
Settlement = tuple[Job, JobResult]

MAX_ERROR_CHARS = 500


def notify_channel(queue: str) -> str:
    """Where a queue's new jobs are announced."""
    return f"jobs_{queue}"


def storable_error(text: str) -> str:
    """Return the beginning of an error's text as Postgres takes it."""
    return storable_text(text[:MAX_ERROR_CHARS])


@dataclass(frozen=True)
class ClaimLimits:
    """How much one process takes in hand."""

    max_jobs: int
    max_jobs_per_lane: int
    lease_s: float


class JobStore:
    """One queue's rows."""

    def __init__(self, pool: Pool, queue: str, limits: ClaimLimits) -> None:
        self._pool = pool
        self.queue = queue
        self._limits = limits

    async def claim(self, in_hand: Iterable[Job] = ()) -> list[Job]:
        """Lease what may be done now, given what this process has in hand already."""
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
        }
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SQL["claim"], values)).fetchall()
        return [Job(*row) for row in rows]

    async def settle(self, settlements: Sequence[Settlement]) -> list[Job]:
        """Write verdicts and what they tell of the lanes, in one transaction; the jobs that weren't ours any more."""
        async with self._pool.connection() as connection:
            missed = await self._write(connection, settlements)
            # Missed once may be a row that somebody changed in the same moment; twice, it isn't ours.
            lost = await self._write(connection, missed) if missed else []
            gone = {(job.stream, job.seq) for job, _ in lost}
            await self._lanes(connection, [s for s in settlements if (s[0].stream, s[0].seq) not in gone])
        return [job for job, _ in lost]

    async def _write(self, connection: Connection, settlements: Sequence[Settlement]) -> list[Settlement]:
        values = self._keys([job for job, _ in settlements]) | {
            "states": [verdict.state.value for _, verdict in settlements],
            "delays": [float(verdict.delay_s) for _, verdict in settlements],
            "burnt": [verdict.counts_as_attempt for _, verdict in settlements],
            "errors": [storable_error(verdict.error) for _, verdict in settlements],
        }
        rows = await (await connection.execute(SQL["settle"], values)).fetchall()
        ours = {(stream, seq) for stream, seq in rows}
        return [settlement for settlement in settlements if (settlement[0].stream, settlement[0].seq) not in ours]

    async def settle_one(self, job: Job, verdict: JobResult) -> None:
        """Write one verdict. Raises LeaseLost where another worker may hold the job."""
        if await self.settle([(job, verdict)]):
            raise LeaseLost(f"{job.queue} {job.stream} {job.name}: the lease ran out before the outcome was written")

    async def extend_leases(self, jobs: Sequence[Job]) -> set[tuple[str, int]]:
        """Extend leases; the jobs (stream, seq) that are still ours."""
        values = self._keys(jobs) | {"lease": self._limits.lease_s}
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SQL["extend"], values)).fetchall()
        return {(stream, seq) for stream, seq in rows}

    async def park_blocked_jobs(self) -> None:
        """Move what waits behind a later job out of the claim's way."""
        await self._execute("park")

    async def pause_lane(self, lane: str, reason: str) -> None:
        """Stop a lane until somebody resumes it."""
        await self._execute("pause", lane=lane, reason=reason)

    async def resume_lanes(self, lanes: Sequence[str]) -> list[str]:
        """Let lanes go on, with closed breakers, and wake the workers; those that had stopped."""
        async with self._pool.connection() as connection:
            found = await connection.execute(SQL["resume"], {"queue": self.queue, "lanes": list(lanes)})
            rows = await found.fetchall()
            await connection.execute(SQL["notify"], {"channel": notify_channel(self.queue)})
        return [lane for (lane,) in rows]

    async def lanes_paused_for(self, reason: str) -> list[str]:
        """The lanes paused for exactly this reason."""
        async with self._pool.connection() as connection:
            found = await connection.execute(SQL["paused_for"], {"queue": self.queue, "reason": reason})
            return [lane for (lane,) in await found.fetchall()]

    async def check_connections(self) -> None:
        """After trouble: replace the pool's dead connections at once, not one failure each."""
        await self._pool.check()

    async def release_held_jobs(self) -> None:
        """Let go what was held until the log's end was reached."""
        await self._execute("release")

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

    async def _lanes(self, connection: Connection, settlements: Sequence[Settlement]) -> None:
        failing: dict[str, list[EndpointHealth]] = {}
        for job, verdict in settlements:
            if verdict.health in (EndpointHealth.FAILING, EndpointHealth.BROKEN):
                failing.setdefault(job.lane, []).append(verdict.health)
            if verdict.pause_reason:
                values = {"queue": self.queue, "lane": job.lane, "reason": verdict.pause_reason}
                await connection.execute(SQL["pause"], values)
        healthy = {job.lane for job, verdict in settlements if verdict.health is EndpointHealth.HEALTHY}
        await self._tell(connection, failing, healthy)

    async def record_lane_health(
        self, failing: Mapping[str, Sequence[EndpointHealth]], healthy: Collection[str]
    ) -> None:
        """What is news of lanes, where no job brings it."""
        async with self._pool.connection() as connection:
            await self._tell(connection, failing, healthy)

    async def _tell(
        self, connection: Connection, failing: Mapping[str, Sequence[EndpointHealth]], healthy: Collection[str]
    ) -> None:
        if failing:
            await self._trip(connection, failing)
        if healthy:
            await connection.execute(SQL["lanes_heal"], {"queue": self.queue, "lanes": sorted(healthy)})

    async def _trip(self, connection: Connection, failing: Mapping[str, Sequence[EndpointHealth]]) -> None:
        values = {"queue": self.queue, "lanes": sorted(failing)}
        await connection.execute(SQL["lanes_known"], values)
        rows = await (await connection.execute(SQL["lanes_locked"], values)).fetchall()
        for lane, failures, trips, open_for in rows:
            news = failing[lane]
            now = after_failures(Breaker(failures, trips, open_for), len(news), broken=EndpointHealth.BROKEN in news)
            changed = {"failures": now.failures, "trips": now.trips, "open_for": now.open_for}
            await connection.execute(SQL["lane_broken"], {"queue": self.queue, "lane": lane, **changed})
