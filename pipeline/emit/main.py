"""The role `mailfold emit`: send the pending conversions, which the projector has stored as jobs, to Fast Track."""

from functools import partial

from pipeline import admin
from pipeline.emit.emitter import NO_DESTINATION, ConversionJobHandler
from pipeline.emit.http import open_conversion_client
from pipeline.jobs.engine import JobEngine
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.conninfo import session_conninfo

QUEUE = "emit"


async def run(rt: Runtime) -> None:
    """Send conversions until ``rt.stop``, then finish the jobs in hand."""
    settings = rt.settings
    limits = ClaimLimits(settings.emit_concurrency, settings.lane_concurrency, settings.lease_seconds)
    store = JobStore(rt.pool, QUEUE, limits)
    async with open_conversion_client(settings) as client:
        handle = ConversionJobHandler(rt, client)
        conninfo, tick = session_conninfo(settings), partial(_resume_lanes, rt, store)
        engine = JobEngine(store, limits, handle, settings.emit_schedule, conninfo=conninfo, tick=tick)
        await engine.run(rt.stop)


async def _resume_lanes(rt: Runtime, store: JobStore) -> None:
    """Resume lanes that were paused for want of a destination and whose brand has one now."""
    secret = rt.settings.secret.get_secret_value()
    for lane in await store.lanes_paused_for(NO_DESTINATION):
        tenant, _, brand = lane.partition("/")
        if await admin.get_destination(rt.pool, tenant, brand, secret) is not None:
            await store.resume_lanes([lane])
