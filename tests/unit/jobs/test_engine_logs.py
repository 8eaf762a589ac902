"""Test that the log lines of a job, and of what its handler calls, name the job."""

import asyncio
import logging
from typing import Any, cast

from pipeline.jobs.engine import JobEngine, JobHandler, Lease
from pipeline.jobs.job import DONE, Job, JobResult
from pipeline.jobs.metrics import JobMetrics
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.observing.role_metrics import RoleMetrics
from tests.support.logs import captured_log_lines

LIMITS = ClaimLimits(max_jobs=10, max_jobs_per_lane=10, lease_s=5.0)
log = get_logger(__name__)


def job(email_id: str, attempt: int = 1) -> Job:
    return Job(
        queue="dispatch",
        stream=email_id,
        seq=0,
        name="send",
        lane="acme/7",
        attempt=attempt,
        tries=attempt,
        unknown=False,
        token="t",
        payload=b"",
    )


async def work_on(handle: JobHandler, *jobs: Job) -> None:
    """Run the jobs at the same time, each in a task of its own as the engine does."""
    store = JobStore(cast("Any", None), "dispatch", LIMITS)  # no job is claimed or settled here
    engine = JobEngine(store, LIMITS, handle, (60.0,), conninfo="", metrics=JobMetrics(RoleMetrics(), "dispatch"))
    lease = Lease(asyncio.get_running_loop().time() + 60)
    await asyncio.gather(*(asyncio.create_task(engine._run_job(each, lease)) for each in jobs))


async def test_lines_of_concurrent_jobs_name_their_own_job() -> None:
    all_began = asyncio.Barrier(3)

    async def handle(own: Job, _lease: Lease) -> JobResult:
        await all_began.wait()
        logging.getLogger("a.library").warning("answered %s", own.stream)
        return DONE

    with captured_log_lines() as lines:
        await work_on(handle, job("a"), job("b"), job("c", attempt=2))
        log.warning("after the jobs")
    *of_jobs, after = lines()
    assert sorted((line["email_id"], line["event"], line["attempt"]) for line in of_jobs) == [
        ("a", "answered a", 1),
        ("b", "answered b", 1),
        ("c", "answered c", 2),
    ]
    assert {(line["queue"], line["job"], line["lane"]) for line in of_jobs} == {("dispatch", "send", "acme/7")}
    assert "email_id" not in after


async def test_failed_attempt_is_logged_with_its_job() -> None:
    async def fail(_job: Job, _lease: Lease) -> JobResult:
        raise ValueError("no")

    with captured_log_lines() as lines:
        await work_on(fail, job("a", attempt=3))
    [line] = lines()
    assert (line["event"], line["email_id"], line["job"], line["attempt"]) == ("attempt failed", "a", "send", 3)
    assert "ValueError: no" in line["exception"]
