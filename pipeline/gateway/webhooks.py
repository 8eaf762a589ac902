"""`POST /webhooks/{provider}`: an authentic request -> its raw bytes on the log, before anybody interprets them."""

import re
import time
from typing import Final

from fastapi import APIRouter, Request, Response

from pipeline import admin
from pipeline.errors import Forged, NotFound
from pipeline.gateway.bodies import read_raw
from pipeline.gateway.cache import Cache
from pipeline.gateway.problems import Problem, respond, unavailable
from pipeline.gateway.world import World
from pipeline.hearing.adapter import Incoming
from pipeline.ports import Entry
from pipeline.providers.registry import adapter
from topics.registry import MAX_RECORD_BYTES, PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook

REMEMBERED_S: Final = 3.0
BODY_MAX: Final = MAX_RECORD_BYTES - 20_000
"""One webhook is one record, headers included; SendGrid's are at most 768 kB."""
HEADERS_MAX: Final = 16_000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a provider can be called (admin.providers); nothing else is worth a question to Postgres."""
_SECRET: Final = frozenset({"x-api-key", "x-forwarded-for", "x-real-ip"})


def router(world: World) -> APIRouter:
    """The providers' surface."""
    routes = APIRouter(tags=["providers"])
    known: Cache[str, admin.Provider | None] = Cache(REMEMBERED_S, 1_000, time.monotonic)

    async def find(name: str) -> admin.Provider | None:
        try:
            return await admin.get_provider(world.rt.pool, name, world.rt.settings.secret.get_secret_value())
        except NotFound:
            return None

    @routes.post("/webhooks/{provider}", summary="Take a provider's webhook", status_code=204)
    async def webhook(provider: str, request: Request) -> Response:
        """Verify the signature, append the raw bytes, answer 2xx. 503: not durable, the provider tries again."""
        row = await known.get(provider, find) if _NAME.fullmatch(provider) else None
        if row is None:
            raise Problem(404, "no such provider", f"/webhooks/{provider}")
        body = await read_raw(request, BODY_MAX)
        try:
            reader = adapter(row.kind)
            fresh_s = max(world.rt.settings.webhook_max_age, reader.HORIZON_S)
            incoming = Incoming(headers=dict(request.headers), body=body, url=_url(world, request))
            reader.verify(incoming, row.webhook_keys, world.rt.clock(), fresh_s)
        except NotFound as error:
            raise Problem(404, str(error), f"/webhooks/{provider}") from None
        except Forged as error:
            world.metrics.forged.labels("webhook").inc()
            return respond(403, str(error), "signature")
        places = await world.log.append([Entry(PROVIDER_WEBHOOKS, None, _raw(world, row, request, body))])
        return unavailable("the log did not confirm it in time") if None in places else Response(status_code=204)

    return routes


def _url(world: World, request: Request) -> str:
    """As the provider knows it: our public address, whatever proxy stands in between."""
    query = f"?{request.url.query}" if request.url.query else ""
    return world.rt.settings.public_url.rstrip("/") + request.url.path + query


def _raw(world: World, row: admin.Provider, request: Request, body: bytes) -> RawWebhook:
    return RawWebhook(
        webhook_id=world.rt.new_id(),
        provider=row.provider,
        kind=row.kind,
        received_at=world.rt.clock(),
        headers=_relevant(request),
        body=body,
    )


def _relevant(request: Request) -> tuple[tuple[str, str], ...]:
    """What a provider says in headers: its own and the content type; nobody's credentials, nobody's address."""
    kept = []
    room = HEADERS_MAX
    for name, value in request.headers.items():
        if (name.startswith("x-") and name not in _SECRET) or name == "content-type":
            room -= len(name) + len(value)
            if room >= 0:
                kept.append((name, value))
    return tuple(kept)
