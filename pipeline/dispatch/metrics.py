"""The dispatcher's Prometheus metrics, beside those that every role has."""

from pipeline.jobs.metrics import JobMetrics
from pipeline.runtime.observing.role_metrics import ReaderMetrics, RoleMetrics


class DispatchMetrics(RoleMetrics):
    """One dispatcher's metrics."""

    def __init__(self, queue: str) -> None:
        super().__init__()
        self.jobs = JobMetrics(self, queue)
        self.readers = ReaderMetrics(self)
        self.intake_seconds = self.transaction_seconds("intake")
        self.correlation_seconds = self.transaction_seconds("correlation")
