"""Debts in (jobs that the projector booked), conversions at Fast Track and `conversion-results` out."""

from pipeline import admin
from pipeline.emit.emitter import NO_DESTINATION, ConversionJobHandler
from pipeline.emit.http import open_conversion_client
from pipeline.jobs.engine import JobEngine
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime

QUEUE = "emit"


async def run(rt: Runtime) -> None:
    """Tell Fast Track until ``rt.stop``, then end what is in hand."""
    settings = rt.settings
    limits = ClaimLimits(settings.emit_concurrency, settings.lane_concurrency, settings.lease_seconds)
    store = JobStore(rt.pool, QUEUE, limits)
    async with open_conversion_client(settings) as call:
        tell = ConversionJobHandler(rt, call)
        url = settings.database_url.get_secret_value()
        engine = JobEngine(store, limits, tell, settings.emit_schedule, url=url, tick=lambda: _resume(rt, store))
        await engine.run(rt.stop)


async def _resume(rt: Runtime, store: JobStore) -> None:
    """Lanes that waited for a destination go on when their brand has got one."""
    secret = rt.settings.secret.get_secret_value()
    for lane in await store.lanes_paused_for(NO_DESTINATION):
        tenant, _, brand = lane.partition("/")
        if await admin.get_destination(rt.pool, tenant, brand, secret) is not None:
            await store.resume_lanes([lane])
