"""The role `mailfold dispatch`: send the emails of `send-requests` and write `provider-acks`.

It runs four loops: the intake turns requests and acks into jobs, the job engine sends them, correlation
(:mod:`pipeline.dispatch.correlation.loop`) finds the email of events that do not name one, and old jobs are deleted.
"""

import contextlib

from pipeline.dispatch.ack_barrier import AckBarrier
from pipeline.dispatch.content_reader import open_content_reader
from pipeline.dispatch.correlation.loop import run_correlation
from pipeline.dispatch.deliver import NO_PROVIDER, SendJobHandler
from pipeline.dispatch.intake import run_intake
from pipeline.dispatch.metrics import DispatchMetrics
from pipeline.dispatch.routing.routes import get_brand_routing
from pipeline.dispatch.transports.by_kind import TransportRouter
from pipeline.errors import InvalidSettings, NotFound
from pipeline.jobs.engine import JobEngine
from pipeline.jobs.retention import expiring_jobs
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.conninfo import session_conninfo
from pipeline.runtime.postgres.retention import run_retention
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.startup import wait_until_available
from pipeline.runtime.tasks import run_loops
from topics.registry import MESSAGE_CONTENTS, PROVIDER_ACKS

QUEUE = "dispatch"
logger = get_logger(__name__)


async def run(rt: Runtime) -> None:
    """Send emails until ``rt.stop``, then finish the jobs in hand. Raise RoleStopped before contents can be read."""
    settings = rt.settings
    limits = ClaimLimits(settings.dispatch_concurrency, settings.lane_concurrency, settings.lease_seconds)
    transport = TransportRouter(timeout=settings.smtp_timeout, local_hostname=settings.mail_domain, clock=rt.clock)
    store = JobStore(rt.pool, QUEUE, limits)
    metrics = DispatchMetrics(QUEUE)
    rt.health.use_metrics(metrics)
    rt.log.require_topics(PROVIDER_ACKS, MESSAGE_CONTENTS)

    async def tick() -> None:
        transport.close_idle()
        await _resume_lanes(rt, store)

    async with contextlib.AsyncExitStack() as stack:
        reader = await wait_until_available(
            "Kafka", lambda: stack.enter_async_context(open_content_reader(settings)), rt.stop
        )
        handle = SendJobHandler(rt, transport, reader)
        engine = JobEngine(
            *(store, limits, handle, settings.dispatch_schedule),
            conninfo=session_conninfo(settings),
            metrics=metrics.jobs,
            tick=tick,
            barrier=AckBarrier(rt),
            tracer=rt.tracer,
        )
        try:
            await run_loops(
                run_intake(rt, metrics),
                run_correlation(rt, metrics),
                run_retention(rt, expiring_jobs(QUEUE, settings)),
                engine.run(rt.stop),
            )
        finally:
            await transport.close()


async def _resume_lanes(rt: Runtime, store: JobStore) -> None:
    """Resume lanes that were paused for want of a provider and whose brand has one now."""
    ring = secret_ring(rt.settings)
    for lane in await store.lanes_paused_for(NO_PROVIDER):
        tenant, _, brand = lane.partition("/")
        try:
            await get_brand_routing(rt.pool, tenant, brand, ring)
        except NotFound:
            continue
        except InvalidSettings as error:
            logger.error("lane stays paused", lane=lane, error=str(error))
            continue
        await store.resume_lanes([lane])
