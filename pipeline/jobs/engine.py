"""The loop that works on a queue of jobs. Run by `mailfold dispatch` and `mailfold emit`.

The main task claims due jobs while there is capacity. Each job runs in a task of its own. Five helper tasks share
the jobs in hand: one writes results in bulk, one extends leases, one parks blocked jobs, and one listens for
notifications of new jobs. No transaction is open while a job is worked on.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol

from pipeline.errors import DatabaseReplaced, LeaseLost, RecoverableError, RoleStopped
from pipeline.jobs.job import EndpointHealth, Job, JobResult, JobState, bury, release, retry
from pipeline.jobs.metrics import JobMetrics
from pipeline.jobs.notify import listen
from pipeline.jobs.retry import next_delay
from pipeline.jobs.store import ClaimLimits, JobStore, Settlement, notify_channel
from pipeline.runtime.observing.logs import bind_log_fields, get_logger
from pipeline.runtime.observing.tracing import NO_TRACER, Attribute, Tracer
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.tasks import cancel_tasks, run_unless

logger = get_logger(__name__)

POLL_INTERVAL_S: Final = 1.0
"""Seconds between claims without a notification; the fallback for lost notifications."""
MIN_CLAIM_INTERVAL_S: Final = 0.004
"""Seconds between two claims at least."""
MAX_CLAIM_INTERVAL_S: Final = 0.02
"""Seconds between two claims while each finds a few jobs: a claim of many costs hardly more than a claim of one."""
FULL_CLAIM_JOBS: Final = 16
"""Jobs of a claim from which on the next one follows after `MIN_CLAIM_INTERVAL_S`."""
SETTLE_DELAY_S: Final = 0.02
"""Seconds for which a result waits for those of the other jobs in hand, to be written with them."""
BARRIER_INTERVAL_S: Final = 0.05
"""Seconds between two questions whether the barrier is passed."""
SHUTDOWN_GRACE_S: Final = 6.0
"""Seconds for jobs in hand to finish when the role stops."""
MAX_DATABASE_RETRY_DELAY_S: Final = 5.0
"""Longest delay between attempts to write results to an unavailable database, in seconds."""


class Lease:
    """The time until which this process certainly holds a job.

    It is measured with the event loop's clock, which also advances while the process is frozen.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self.has_contacted = False

    def begin_contact(self) -> None:
        """Mark that the job is about to contact another system.

        Called right before the contact. Raises LeaseLost if another process may already hold the job.
        """
        if asyncio.get_running_loop().time() >= self.until:
            raise LeaseLost
        self.has_contacted = True


JobHandler = Callable[[Job, Lease], Awaitable[JobResult]]


class ClaimBarrier(Protocol):
    """Holds back the claims of jobs until the table of jobs is up to date."""

    async def passed_on(self) -> datetime | None:
        """Return when the Postgres server started whose jobs may be claimed now; None while they may not be.

        It may take as long as Kafka does to answer; the engine cancels it where the role stops.
        """


class JobEngine:
    """The worker of one queue in this process.

    With a ``barrier`` it claims no job before that is passed, at its start and whenever another Postgres server
    answers than before: that one may lag behind, and its jobs may have been done since.
    """

    def __init__(
        self,
        store: JobStore,
        limits: ClaimLimits,
        handle: JobHandler,
        schedule: tuple[float, ...],
        *,
        conninfo: str,
        metrics: JobMetrics,
        rand: Callable[[], float] = random.random,
        tick: Callable[[], Awaitable[None]] | None = None,
        barrier: ClaimBarrier | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._store = store
        self._limits = limits
        self._handle = handle
        self._schedule = schedule
        self._conninfo = conninfo
        self._random = rand
        self._tick = tick
        self._metrics = metrics
        self._barrier = barrier
        self._tracer = tracer
        self._server: datetime | None = None
        """When the server started on which the barrier was passed; None while it is not."""
        self._no_claims_before = 0.0
        self._claim_interval_s = MIN_CLAIM_INTERVAL_S
        self._wake = asyncio.Event()
        self._has_results = asyncio.Event()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._jobs: dict[tuple[str, int], tuple[Job, Lease]] = {}
        """Jobs leased by this process whose result is not written yet."""
        self._running: dict[tuple[str, int], Job] = {}
        """Jobs that use capacity: those of ``_jobs`` without a result."""
        self._results: list[Settlement] = []
        self._metrics.in_hand.set_function(lambda: len(self._running))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``; then finish the jobs in hand, release those that were not begun, and return."""
        helpers = (self._settle_results(), self._extend_leases(), self._run_ticks(), self._wake_at(stop))
        listener = listen(self._conninfo, notify_channel(self._store.queue), self._wake)
        tasks = [asyncio.create_task(coroutine) for coroutine in (*helpers, listener)]
        try:
            while not stop.is_set():
                await self._claim_or_wait(stop)
                _raise_first_error(tasks)
            await self._drain()
        finally:
            await cancel_tasks(tasks)

    # ------------------------------------------------------------------ claim
    async def _claim_or_wait(self, stop: asyncio.Event) -> None:
        self._wake.clear()
        try:
            if not await self._may_claim(stop):
                await asyncio.sleep(BARRIER_INTERVAL_S)
                return
            claimed = await self._claim() if len(self._running) < self._limits.max_jobs else 0
        except DatabaseReplaced:
            logger.warning("another database server answers, claims wait", queue=self._store.queue)
            self._server = None
            # What other processes have in hand, they finish or let go of within the time of a lease.
            self._no_claims_before = asyncio.get_running_loop().time() + self._limits.lease_s
            return
        except DATABASE_UNAVAILABLE_ERRORS as error:
            logger.warning("Postgres unavailable, retrying", queue=self._store.queue, error=str(error))
            await asyncio.sleep(POLL_INTERVAL_S)
            return
        if claimed:
            await asyncio.sleep(self._claim_interval_s)
            longer = min(MAX_CLAIM_INTERVAL_S, 2 * self._claim_interval_s)
            self._claim_interval_s = MIN_CLAIM_INTERVAL_S if claimed >= FULL_CLAIM_JOBS else longer
        else:
            self._claim_interval_s = MIN_CLAIM_INTERVAL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()

    async def _may_claim(self, stop: asyncio.Event) -> bool:
        if self._barrier is None or self._server is not None:
            return True
        if self._jobs or asyncio.get_running_loop().time() < self._no_claims_before:
            return False
        with contextlib.suppress(RoleStopped):
            self._server = await run_unless(stop, self._barrier.passed_on())
        return self._server is not None

    async def _claim(self) -> int:
        # Counted from before the claim, so that our lease ends before Postgres lets another process claim the job.
        until = asyncio.get_running_loop().time() + self._limits.lease_s
        jobs = await self._store.claim(self._running.values(), self._server)
        for job in jobs:
            lease, key = Lease(until), (job.stream, job.seq)
            self._jobs[key] = (job, lease)
            self._running[key] = job
            self._tasks[key] = asyncio.create_task(self._run_job(job, lease))
        return len(jobs)

    async def _run_job(self, job: Job, lease: Lease) -> None:
        bind_log_fields(queue=job.queue, email_id=job.stream, job=job.name, lane=job.lane, attempt=job.attempt)
        try:
            result = await self._attempt(job, lease)
        except LeaseLost:
            self._forget(job)
        except asyncio.CancelledError:
            # Once the other system was contacted, the outcome is unknown and the lease must run out.
            if lease.has_contacted:
                self._forget(job)
            else:
                self._queue_result(job, release(0, "stopped"))
        except (RecoverableError, OSError, *DATABASE_UNAVAILABLE_ERRORS) as error:
            self._queue_result(job, release(1 + self._random(), f"{type(error).__name__}: {error}"))
        except Exception as error:
            logger.exception("attempt failed")
            self._queue_result(job, self._retry_or_bury(job, f"{type(error).__name__}: {error}"))
        else:
            self._queue_result(job, result)

    async def _attempt(self, job: Job, lease: Lease) -> JobResult:
        """Let the handler try the job, in a span if its email is traced."""
        if not job.traceparent:
            return await self._handle(job, lease)
        with self._tracer.span(f"{job.queue} {job.name}", "client", [job.traceparent], _span_attributes(job)) as span:
            result = await self._handle(job, lease)
            span.set_attributes({"mailfold.result": result.state.value})
            return result

    def _retry_or_bury(self, job: Job, error: str) -> JobResult:
        delay = next_delay(self._schedule, job.tries, self._random)
        return bury(error, EndpointHealth.SILENT) if delay is None else retry(delay, error, EndpointHealth.SILENT)

    def _queue_result(self, job: Job, result: JobResult) -> None:
        if result.pause_reason:
            logger.error("lane paused", reason=result.pause_reason)
        elif result.health is EndpointHealth.BROKEN:
            logger.error("lane broken", error=result.error)
        self._results.append((job, result))
        self._running.pop((job.stream, job.seq), None)
        self._has_results.set()
        self._wake.set()

    def _forget(self, job: Job) -> None:
        self._jobs.pop((job.stream, job.seq), None)
        self._running.pop((job.stream, job.seq), None)
        self._tasks.pop((job.stream, job.seq), None)
        self._wake.set()

    # ----------------------------------------------------------------- settle
    async def _settle_results(self) -> None:
        while True:
            await self._has_results.wait()
            if self._running:
                await asyncio.sleep(SETTLE_DELAY_S)
            self._has_results.clear()
            batch, self._results = self._results, []
            lost = await self._write_results(batch)
            for job in lost:
                logger.warning("lease lost", queue=job.queue, email_id=job.stream, job=job.name)
                self._metrics.count_lost()
            for job, result in batch:
                self._forget(job)
                if job not in lost:
                    self._metrics.count(result)
                if result.state is JobState.PENDING and result.delay_s < 60:
                    asyncio.get_running_loop().call_later(result.delay_s, self._wake.set)

    async def _write_results(self, batch: list[Settlement]) -> list[Job]:
        delay = 0.1
        while True:
            try:
                with self._metrics.settle_seconds.time():
                    return await self._store.settle(batch)
            except DATABASE_UNAVAILABLE_ERRORS as error:
                logger.warning(
                    "results not written, retrying", queue=self._store.queue, results=len(batch), error=str(error)
                )
                await asyncio.sleep(delay)
                delay = min(MAX_DATABASE_RETRY_DELAY_S, 2 * delay)

    # ----------------------------------------------------------------- extend
    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(self._limits.lease_s / 3)
            with contextlib.suppress(*DATABASE_UNAVAILABLE_ERRORS):
                await self._extend()

    async def _extend(self) -> None:
        jobs = dict(self._jobs)
        if not jobs:
            return
        started_at = asyncio.get_running_loop().time()
        extended = await self._store.extend_leases([job for job, _ in jobs.values()])
        for key, (_job, lease) in jobs.items():
            if key in extended:
                lease.until = started_at + self._limits.lease_s

    async def _run_ticks(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await self._store.park_blocked_jobs()
                if self._tick is not None:
                    await self._tick()
            except DATABASE_UNAVAILABLE_ERRORS:
                logger.debug("Postgres unavailable", queue=self._store.queue)

    # --------------------------------------------------------------- shutdown
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


def _span_attributes(job: Job) -> dict[str, Attribute]:
    return {
        "mailfold.email_id": job.stream,
        "mailfold.queue": job.queue,
        "mailfold.job": job.name,
        "mailfold.attempt": job.attempt,
        "mailfold.tenant": job.lane.partition("/")[0],
    }


def _raise_first_error(tasks: list[asyncio.Task[None]]) -> None:
    """Raise the error of a helper task that failed.

    It ends the role, so that a supervisor restarts it; without one of its helpers it would only seem to work.
    """
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
