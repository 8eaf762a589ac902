"""Claimed jobs in, settled jobs out: the loop under dispatch and emit.

Five small tasks share one process's jobs in hand: the claimer takes what is due as places get
free, a task per job does the work, the settler writes verdicts in bulk, the keeper extends
leases, the listener wakes the claimer. No transaction is open while a job is worked on.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout

from pipeline.errors import LeaseLost, RecoverableError
from pipeline.jobs.job import EndpointHealth, Job, JobResult, JobState, bury, release, retry
from pipeline.jobs.notify import listen
from pipeline.jobs.retry import next_delay
from pipeline.jobs.store import ClaimLimits, JobStore, Settlement, notify_channel

logger = logging.getLogger(__name__)

DATABASE_UNAVAILABLE_ERRORS: Final = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, OSError)
"""Postgres is away or busy with itself; anything else it says is a mistake of ours and ends the role."""
POLL_INTERVAL_S: Final = 1.0
"""Seconds between looks where nobody rang: the fallback for a lost notification."""
CLAIM_INTERVAL_S: Final = 0.004
"""Seconds between two claims while there's a backlog: places gather, claims get bigger."""
SHUTDOWN_GRACE_S: Final = 6.0
"""Seconds that jobs in hand get to end when the role stops."""
MAX_DATABASE_RETRY_DELAY_S: Final = 5.0
"""Seconds between attempts to reach a database that is away."""


class Lease:
    """How long a job is certainly ours, by this process's own clock (it goes on while the process is frozen)."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.has_contacted = False

    def begin_contact(self) -> None:
        """Called right before the other side is contacted. Raises LeaseLost where somebody else may be at it."""
        if asyncio.get_running_loop().time() >= self.until:
            raise LeaseLost
        self.has_contacted = True


JobHandler = Callable[[Job, Lease], Awaitable[JobResult]]


class JobEngine:
    """One queue, worked on by this process."""

    def __init__(
        self,
        store: JobStore,
        limits: ClaimLimits,
        work: JobHandler,
        schedule: tuple[float, ...],
        *,
        url: str,
        rand: Callable[[], float] = random.random,
        tick: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._work = work
        self._schedule = schedule
        self._url = url
        self._random = rand
        self._tick = tick
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._jobs: dict[tuple[str, int], tuple[Job, Lease]] = {}
        """Leased by us, until their outcome is written."""
        self._at_work: dict[tuple[str, int], Job] = {}
        """Of these, what takes a place: an outcome that waits to be written takes none."""
        self._verdicts: list[Settlement] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``; then let what is in hand end, give back what was not begun, and return."""
        helpers = (self._settle(), self._keep(), self._ticks(), self._wake_at(stop))
        listener = listen(self._url, notify_channel(self._store.queue), self._wake)
        tasks = [asyncio.create_task(coroutine) for coroutine in (*helpers, listener)]
        try:
            while not stop.is_set():
                await self._claim()
                _raise_first(tasks)
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ claim
    async def _claim(self) -> None:
        self._wake.clear()
        try:
            claimed = await self._take() if len(self._at_work) < self._limits.max_jobs else 0
        except DATABASE_UNAVAILABLE_ERRORS as error:
            logger.warning("%s: the database is away: %s", self._store.queue, error)
            await asyncio.sleep(POLL_INTERVAL_S)
            await self._store.check_connections()
            return
        if claimed:
            await asyncio.sleep(CLAIM_INTERVAL_S)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()

    async def _take(self) -> int:
        # The lease begins before Postgres says so: ours must end before anybody else's begins.
        until = asyncio.get_running_loop().time() + self._limits.lease_s
        jobs = await self._store.claim(self._at_work.values())
        for job in jobs:
            lease, key = Lease(until), (job.stream, job.seq)
            self._jobs[key] = (job, lease)
            self._at_work[key] = job
            self._tasks[key] = asyncio.create_task(self._attempt(job, lease))
        return len(jobs)

    async def _attempt(self, job: Job, lease: Lease) -> None:
        try:
            verdict = await self._work(job, lease)
        except LeaseLost:
            self._forget(job)
        except asyncio.CancelledError:
            # What was begun stays leased: nobody knows how it ended. What wasn't goes back.
            if lease.has_contacted:
                self._forget(job)
            else:
                self._tell(job, release(0, "stopped"))
        except (RecoverableError, *DATABASE_UNAVAILABLE_ERRORS) as error:
            self._tell(job, release(1 + self._random(), f"{type(error).__name__}: {error}"))
        except Exception as error:
            logger.exception("%s %s %s: attempt %d failed", job.queue, job.stream, job.name, job.attempt)
            self._tell(job, self._after(job, f"{type(error).__name__}: {error}"))
        else:
            self._tell(job, verdict)

    def _after(self, job: Job, error: str) -> JobResult:
        delay = next_delay(self._schedule, job.tries, self._random)
        return bury(error, EndpointHealth.SILENT) if delay is None else retry(delay, error, EndpointHealth.SILENT)

    def _tell(self, job: Job, verdict: JobResult) -> None:
        if verdict.pause_reason:
            logger.error("%s lane %s paused: %s", job.queue, job.lane, verdict.pause_reason)
        elif verdict.health is EndpointHealth.BROKEN:
            logger.error("%s lane %s: %s", job.queue, job.lane, verdict.error)
        self._verdicts.append((job, verdict))
        self._at_work.pop((job.stream, job.seq), None)
        self._ended.set()
        self._wake.set()

    def _forget(self, job: Job) -> None:
        self._jobs.pop((job.stream, job.seq), None)
        self._at_work.pop((job.stream, job.seq), None)
        self._tasks.pop((job.stream, job.seq), None)
        self._wake.set()

    # ----------------------------------------------------------------- settle
    async def _settle(self) -> None:
        while True:
            await self._ended.wait()
            self._ended.clear()
            batch, self._verdicts = self._verdicts, []
            for job in await self._written(batch):
                logger.warning("%s %s %s: the lease was lost", job.queue, job.stream, job.name)
            for job, verdict in batch:
                self._forget(job)
                if verdict.state is JobState.PENDING and verdict.delay_s < 60:
                    asyncio.get_running_loop().call_later(verdict.delay_s, self._wake.set)

    async def _written(self, batch: list[Settlement]) -> list[Job]:
        wait = 0.1
        while True:
            try:
                return await self._store.settle(batch)
            except DATABASE_UNAVAILABLE_ERRORS as error:
                logger.warning("%s: %d outcomes wait for the database: %s", self._store.queue, len(batch), error)
                await asyncio.sleep(wait)
                wait = min(MAX_DATABASE_RETRY_DELAY_S, 2 * wait)

    # ------------------------------------------------------------------- keep
    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            with contextlib.suppress(*DATABASE_UNAVAILABLE_ERRORS):
                await self._extend()

    async def _extend(self) -> None:
        mine = dict(self._jobs)
        if not mine:
            return
        begun = asyncio.get_running_loop().time()
        ours = await self._store.extend_leases([job for job, _ in mine.values()])
        for key, (_job, lease) in mine.items():
            if key in ours:
                lease.until = begun + self._limits.lease_s

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await self._store.park_blocked_jobs()
                if self._tick is not None:
                    await self._tick()
            except DATABASE_UNAVAILABLE_ERRORS:
                logger.debug("%s: the database is away", self._store.queue)

    # ------------------------------------------------------------------- end
    async def _drain(self) -> None:
        deadline = asyncio.get_running_loop().time() + SHUTDOWN_GRACE_S
        await self._until_idle(deadline)
        for task in list(self._tasks.values()):
            task.cancel()
        await self._until_idle(deadline + 2)

    async def _until_idle(self, deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._jobs:
                    self._wake.clear()
                    await self._wake.wait()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()


def _raise_first(tasks: list[asyncio.Task[None]]) -> None:
    """A helper that ended by mistake ends the role: a supervisor starts it anew, a half-dead one just stands there."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
