"""`send-requests` in, emails at their providers and `provider-acks` out.

Two loops: the intake writes requests and acks into jobs, the engine works them off. A third beside
them tells events of their emails by what the acks say (:mod:`pipeline.dispatch.correlation.loop`).
"""

import asyncio
import contextlib

from pipeline.dispatch.content_reader import open_content_reader
from pipeline.dispatch.correlation.loop import run_correlation
from pipeline.dispatch.deliver import NO_PROVIDER, SendJobHandler
from pipeline.dispatch.intake import run_intake
from pipeline.dispatch.routing.routes import get_brand_routing
from pipeline.dispatch.transports.router import TransportRouter
from pipeline.errors import NotFound
from pipeline.jobs.engine import JobEngine
from pipeline.jobs.store import ClaimLimits, JobStore
from pipeline.runtime.bootstrap import Runtime

QUEUE = "dispatch"


async def run(rt: Runtime) -> None:
    """Dispatch until ``rt.stop``, then end what is in hand."""
    settings = rt.settings
    limits = ClaimLimits(settings.dispatch_concurrency, settings.lane_concurrency, settings.lease_seconds)
    fleet = TransportRouter(timeout=settings.smtp_timeout, local_hostname=settings.mail_domain, clock=rt.clock)
    store = JobStore(rt.pool, QUEUE, limits)

    async def tick() -> None:
        fleet.close_idle()
        await _resume(rt, store)

    async with open_content_reader(settings) as reader:
        deliver = SendJobHandler(rt, fleet, reader)
        url = settings.database_url.get_secret_value()
        engine = JobEngine(store, limits, deliver, settings.dispatch_schedule, url=url, tick=tick)
        try:
            # Any one's mistake ends the others and the role: half a dispatcher only looks like one.
            async with asyncio.TaskGroup() as loops:
                loops.create_task(run_intake(rt))
                loops.create_task(run_correlation(rt))
                loops.create_task(engine.run(rt.stop))
        finally:
            await fleet.close()


async def _resume(rt: Runtime, store: JobStore) -> None:
    """Lanes that waited for a provider go on when their brand has got one."""
    secret = rt.settings.secret.get_secret_value()
    for lane in await store.lanes_paused_for(NO_PROVIDER):
        tenant, _, brand = lane.partition("/")
        with contextlib.suppress(NotFound):
            await get_brand_routing(rt.pool, tenant, brand, secret)
            await store.resume_lanes([lane])
