"""The metrics of a job queue's worker, which the dispatcher and the emitter have."""

from pipeline.jobs.job import JobResult, JobState
from pipeline.runtime.observing.role_metrics import RoleMetrics

LOST = "lost"


class JobMetrics:
    """What one process's engine does with the jobs of its queue."""

    def __init__(self, metrics: RoleMetrics, queue: str) -> None:
        attempts = metrics.counter(
            "attempts",
            "Attempts at jobs that ended, by queue and result: done, retried, released (for a reason that is not the "
            "job's own), dead, unknown, lost (its lease ran out).",
            "queue",
            "result",
        )
        self._attempts = {result: attempts.labels(queue, result) for result in ("done", "retried", "released", LOST)}
        self._attempts |= {state: attempts.labels(queue, state) for state in ("dead", "unknown")}
        self.in_hand = metrics.gauge("jobs_in_hand", "Jobs that this process works on now.", "queue").labels(queue)
        self.settle_seconds = metrics.transaction_seconds("settle")

    def count(self, result: JobResult) -> None:
        """Count an attempt by its result."""
        if result.state is JobState.PENDING:
            self._attempts["retried" if result.counts_as_attempt else "released"].inc()
        elif result.state.value in self._attempts:
            self._attempts[result.state.value].inc()

    def count_lost(self) -> None:
        """Count an attempt whose result was not written, because the lease had run out."""
        self._attempts[LOST].inc()
