"""The role `mailfold dispatch`: send the emails of `send-requests` and write `provider-acks`.

It runs four loops: the intake turns requests and acks into jobs, the job engine sends them, correlation
(:mod:`pipeline.dispatch.correlation.loop`) finds the email of events that do not name one, and old jobs are deleted.
"""

import asyncio
import contextlib

from pipeline.dispatch.ack_barrier import AckBarrier
from pipeline.dispatch.content_reader import open_content_reader
from pipeline.dispatch.correlation.loop import run_correlation
from pipeline.dispatch.deliver import NO_PROVIDER, SendJobHandler
from pipeline.dispatch.intake import run_intake
from pipeline.dispatch.metrics import DispatchMetrics
from pipeline.dispatch.routing.routes import get_brand_routing
from pipeline.dispatch.transports.by_kind import TransportRouter
from pipeline.errors import NotFound, PermanentError
from pipeline.jobs.engine import JobEngine
from pipeline.jobs.retention import expiring_jobs
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.conninfo import session_conninfo
from pipeline.runtime.retention import run_retention
from topics.codec import NewerRecord

QUEUE = "dispatch"


async def run(rt: Runtime) -> None:
    """Send emails until ``rt.stop``, then finish the jobs in hand."""
    settings = rt.settings
    limits = ClaimLimits(settings.dispatch_concurrency, settings.lane_concurrency, settings.lease_seconds)
    transport = TransportRouter(timeout=settings.smtp_timeout, local_hostname=settings.mail_domain, clock=rt.clock)
    store = JobStore(rt.pool, QUEUE, limits)
    metrics = DispatchMetrics(QUEUE)
    rt.health.use_metrics(metrics)

    async def tick() -> None:
        transport.close_idle()
        await _resume_lanes(rt, store)

    async with open_content_reader(settings) as reader:
        handle = SendJobHandler(rt, transport, reader)
        engine = JobEngine(
            *(store, limits, handle, settings.dispatch_schedule),
            conninfo=session_conninfo(settings),
            metrics=metrics.jobs,
            tick=tick,
            barrier=AckBarrier(rt),
        )
        try:
            # An error in one loop ends all of them and the role: without one of them it would seem to work.
            async with asyncio.TaskGroup() as loops:
                loops.create_task(run_intake(rt, metrics))
                loops.create_task(run_correlation(rt, metrics))
                loops.create_task(run_retention(rt, expiring_jobs(QUEUE, settings)))
                loops.create_task(engine.run(rt.stop))
        except ExceptionGroup as group:
            # What an operator must do is one sentence, not a group of tracebacks.
            raise next(
                (each for each in group.exceptions if isinstance(each, PermanentError | NewerRecord)), group
            ) from None
        finally:
            await transport.close()


async def _resume_lanes(rt: Runtime, store: JobStore) -> None:
    """Resume lanes that were paused for want of a provider and whose brand has one now."""
    secret = rt.settings.secret.get_secret_value()
    for lane in await store.lanes_paused_for(NO_PROVIDER):
        tenant, _, brand = lane.partition("/")
        with contextlib.suppress(NotFound):
            await get_brand_routing(rt.pool, tenant, brand, secret)
            await store.resume_lanes([lane])
