"""Attempts at jobs, counted by how they ended."""

import pytest

from pipeline.jobs.job import DONE, EndpointHealth, JobResult, bury, hold, release, retry
from pipeline.jobs.metrics import JobMetrics
from pipeline.runtime.observing.role_metrics import RoleMetrics


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (DONE, "done"),
        (retry(5, "503", EndpointHealth.FAILING), "retried"),
        (release(5, "down"), "released"),
        (bury("no"), "dead"),
        (hold("who knows"), "unknown"),
        (None, "lost"),
    ],
)
def test_attempt_is_counted_by_its_result(result: JobResult | None, name: str) -> None:
    metrics = RoleMetrics()
    jobs = JobMetrics(metrics, "emit")
    jobs.count_lost() if result is None else jobs.count(result)
    counted = {
        sample.labels["result"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "mailfold_attempts_total"
    }
    assert counted == dict.fromkeys(("done", "retried", "released", "dead", "unknown", "lost"), 0) | {name: 1}
