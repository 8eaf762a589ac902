"""`send-requests` in, emails at their providers and `provider-acks` out.

Two loops: the intake writes requests and acks into jobs, the engine works them off.
"""

import asyncio
import contextlib

from pipeline import admin
from pipeline.bootstrap import Runtime
from pipeline.carriers.smtp import Postman
from pipeline.dispatch.contents import content_reader
from pipeline.dispatch.deliver import NO_PROVIDER, Deliver
from pipeline.dispatch.intake import take_in
from pipeline.errors import NotFound
from pipeline.outbox.engine import Engine
from pipeline.outbox.store import Limits, Store

QUEUE = "dispatch"


async def run(rt: Runtime) -> None:
    """Dispatch until ``rt.stop``, then end what is in hand."""
    settings = rt.settings
    limits = Limits(settings.dispatch_concurrency, settings.lane_concurrency, settings.lease_seconds)
    postman = Postman(timeout=settings.smtp_timeout, local_hostname=settings.mail_domain)
    store = Store(rt.pool, QUEUE, limits)

    async def tick() -> None:
        postman.tidy()
        await _resume(rt, store)

    async with content_reader(settings) as reader:
        deliver = Deliver(rt, postman, reader)
        url = settings.database_url.get_secret_value()
        engine = Engine(store, limits, deliver, settings.dispatch_schedule, url=url, tick=tick)
        try:
            # Either one's mistake ends the other and the role: half a dispatcher only looks like one.
            async with asyncio.TaskGroup() as both:
                both.create_task(take_in(rt))
                both.create_task(engine.run(rt.stop))
        finally:
            await postman.close()


async def _resume(rt: Runtime, store: Store) -> None:
    """Lanes that waited for a provider go on when their brand has got one."""
    for lane in await store.paused_for(NO_PROVIDER):
        tenant, _, brand = lane.partition("/")
        with contextlib.suppress(NotFound):
            await admin.get_brand(rt.pool, tenant, brand)
            await store.resume([lane])
