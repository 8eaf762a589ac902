"""The role `mailfold emit`: send the pending conversions, which the projector has stored as jobs, to Fast Track."""

from pipeline import admin
from pipeline.emit.emitter import NO_DESTINATION, ConversionJobHandler
from pipeline.emit.http import open_conversion_client
from pipeline.emit.metrics import EmitMetrics
from pipeline.emit.result_barrier import ResultBarrier
from pipeline.errors import InvalidSettings
from pipeline.jobs.engine import JobEngine
from pipeline.jobs.retention import expiring_jobs
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.conninfo import session_conninfo
from pipeline.runtime.postgres.retention import run_retention
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.tasks import run_loops
from topics.registry import CONVERSION_RESULTS

QUEUE = "emit"
logger = get_logger(__name__)


async def run(rt: Runtime) -> None:
    """Send conversions and delete old jobs until ``rt.stop``, then finish the jobs in hand."""
    settings = rt.settings
    limits = ClaimLimits(settings.emit_concurrency, settings.lane_concurrency, settings.lease_seconds)
    store = JobStore(rt.pool, QUEUE, limits)
    metrics = EmitMetrics(QUEUE)
    rt.health.use_metrics(metrics)
    rt.log.require_topics(CONVERSION_RESULTS)
    async with open_conversion_client(settings) as client:
        handle = ConversionJobHandler(rt, client)
        engine = JobEngine(
            *(store, limits, handle, settings.emit_schedule),
            conninfo=session_conninfo(settings),
            metrics=metrics.jobs,
            tick=lambda: _resume_lanes(rt, store),
            barrier=ResultBarrier(rt),
            tracer=rt.tracer,
        )
        await run_loops(run_retention(rt, expiring_jobs(QUEUE, settings)), engine.run(rt.stop))


async def _resume_lanes(rt: Runtime, store: JobStore) -> None:
    """Resume lanes that were paused for want of a destination and whose brand has one now."""
    ring = secret_ring(rt.settings)
    for lane in await store.lanes_paused_for(NO_DESTINATION):
        tenant, _, brand = lane.partition("/")
        try:
            destination = await admin.get_destination(rt.pool, tenant, brand, ring)
        except InvalidSettings as error:
            logger.error("lane stays paused", lane=lane, error=str(error))
            continue
        if destination is not None:
            await store.resume_lanes([lane])
