"""The emitter's Prometheus metrics, beside those that every role has."""

from pipeline.jobs.metrics import JobMetrics
from pipeline.runtime.observing.role_metrics import RoleMetrics


class EmitMetrics(RoleMetrics):
    """One emitter's metrics."""

    def __init__(self, queue: str) -> None:
        super().__init__()
        self.jobs = JobMetrics(self, queue)
