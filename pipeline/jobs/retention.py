"""Say which jobs and lanes of a queue expire. The roles dispatch and emit delete those of their queue.

Open jobs never expire, and neither do `unknown` ones: they wait for the decision of an operator.
"""

from pipeline.jobs.store import SQL
from pipeline.runtime.postgres.retention import ExpiringRows
from pipeline.settings import Settings


def expiring_jobs(queue: str, settings: Settings) -> tuple[ExpiringRows, ...]:
    """Return the rows of a queue that expire.

    A done job is what recognises a repeated request or a conversion that was already sent; a dead one can be replayed;
    a held one without a payload waits for a request that the log no longer has. A lane without open jobs has nothing
    to remember but an old failure.
    """
    done = {"queue": queue, "days": settings.idempotency_days}
    # The job of an email that failed is dead, and is what recognises its request when it is repeated.
    dead = {"queue": queue, "days": max(settings.dead_job_days, settings.idempotency_days)}
    return (
        ExpiringRows("jobs.jobs", SQL["expire_done"], done),
        ExpiringRows("jobs.jobs", SQL["expire_dead"], dead),
        ExpiringRows("jobs.jobs", SQL["expire_held"], dead),
        ExpiringRows("jobs.lanes", SQL["expire_lanes"], {"queue": queue}),
    )
