"""`POST /webhooks/{provider}`: an authentic request -> its raw bytes on the log, before anybody interprets them."""

import asyncio
import logging
import re
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline import admin
from pipeline.errors import Forged, NotFound, NotLoggedIn, Recoverable
from pipeline.gateway.problems import Problem, respond, unavailable
from pipeline.gateway.request_body import OWNER, read_raw
from pipeline.gateway.state import World
from pipeline.gateway.webhook_log import Heard
from pipeline.gateway.webhook_record import BODY_MAX, LARGE_MAX, Taken, records
from pipeline.gateway.webhook_verifier import Verifier
from pipeline.runtime.database import AWAY
from pipeline.runtime.ports import Entry
from pipeline.runtime.ttl_cache import TTLCache
from pipeline.webhooks import self_check
from pipeline.webhooks.base import Adapter, Incoming
from pipeline.webhooks.providers.registry import GREETING, PROVEN_BY_HEADERS, adapter
from topics.registry import PROVIDER_WEBHOOKS

REMEMBERED_S: Final = 3.0
_ASK_S: Final = 1.0
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a provider can be called (admin.providers); nothing else is worth a question to Postgres."""
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "The user or the password is not this provider's."},
    403: {"description": "The signature is not this provider's, or stale."},
    404: {"description": "No such provider, or none that sends webhooks."},
    413: {"description": f"Over {LARGE_MAX} bytes."},
    503: {"description": "Nothing was taken, or nobody knows; send it again."},
}
log = logging.getLogger(__name__)


def router(world: World) -> APIRouter:
    """The providers' surface."""
    routes = APIRouter(tags=["providers"])
    known = _Known(world)
    reception = _Reception(world)

    # 200, not 204: Mailgun, Postmark and Mandrill ask for exactly that.
    @routes.post("/webhooks/{provider}", summary="Take a provider's webhook", status_code=200, responses=_ANSWERS)
    async def webhook(provider: str, request: Request) -> Response:
        """Verify, append the raw bytes, answer 200. 503: not durable, the provider tries again."""
        row, reader = await known.find(provider)
        return await reception.take(row, reader, request)

    @routes.get("/webhooks/{provider}", summary="Is this a webhook's URL?", responses={404: _ANSWERS[404]})
    @routes.head("/webhooks/{provider}", include_in_schema=False)
    async def probe(provider: str) -> Response:
        """Some providers look before they save a URL: Mandrill by HEAD, people by their browser."""
        await known.find(provider)
        return Response("Webhooks are POSTed here.\n", media_type="text/plain")

    return routes


class _Known:
    """Providers' rows, remembered; while Postgres is away, as they last were: the log may well be there."""

    def __init__(self, world: World) -> None:
        self._pool = world.rt.pool
        self._secret = world.rt.settings.secret.get_secret_value()
        self._rows: TTLCache[str, admin.Provider | None] = TTLCache(REMEMBERED_S, 1_000)
        self._last: dict[str, admin.Provider] = {}

    async def find(self, name: str) -> tuple[admin.Provider, Adapter]:
        """The row and who reads its webhooks. Raises Problem 404, AWAY."""
        row = await self._rows.get(name, self._ask) if _NAME.fullmatch(name) else None
        if row is None:
            raise Problem(404, "no such provider", f"/webhooks/{name}")
        try:
            return row, adapter(row.kind)
        except NotFound as error:
            raise Problem(404, str(error), f"/webhooks/{name}") from None

    async def _ask(self, name: str) -> admin.Provider | None:
        try:
            async with asyncio.timeout(_ASK_S if name in self._last else None):
                self._last[name] = await admin.get_provider(self._pool, name, self._secret)
        except NotFound:
            self._last.pop(name, None)
        except (*AWAY, TimeoutError):
            if name not in self._last:
                raise
        return self._last.get(name)


class _Reception:
    """Takes requests in."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rt = world.rt
        self._verifier = Verifier(world)
        self._heard = Heard(world.rt.pool)
        self._check = self_check.signer(world.rt.settings.secret.get_secret_value())

    async def take(self, row: admin.Provider, reader: Adapter, request: Request) -> Response:
        """Return the answer; each is counted."""
        heads = Incoming(headers=dict(request.headers), body=b"", url=self._url(request))
        mark = self._mark(row, heads)
        try:
            self._prove_by_headers(row, reader, heads, request)
        except Forged as error:
            outcome, answer = "refused", self._refused(row, error, checking=bool(mark))
        else:
            body = await read_raw(request, min(LARGE_MAX, self._rt.settings.body_max))
            incoming = msgspec.structs.replace(heads, body=body)
            outcome, answer = await self._answered(row, reader, incoming, checking=bool(mark))
        answer.headers.update(mark)
        self._world.metrics.webhooks.labels(row.provider, outcome).inc()
        return answer

    def _prove_by_headers(self, row: admin.Provider, reader: Adapter, heads: Incoming, request: Request) -> None:
        """Raise Forged before a byte of the body is read, where the headers alone prove who asks.

        What is proven so takes the provider's share of memory; anybody else takes the share of their address.
        """
        if row.kind in PROVEN_BY_HEADERS and row.webhook_keys:
            reader.verify(heads, row.webhook_keys, self._rt.clock(), self._rt.settings.webhook_max_age)
            request.scope[OWNER] = f"provider {row.provider}"

    async def _answered(
        self, row: admin.Provider, reader: Adapter, incoming: Incoming, *, checking: bool
    ) -> tuple[str, Response]:
        greeting = GREETING.get(row.kind)
        if greeting is not None and greeting.greets(incoming):
            return "greeted", Response(status_code=200)
        try:
            await self._verifier.verify(row, reader, incoming)
            if checking:
                return "checked", Response(status_code=200)
            if await self._verifier.confirmed(row, incoming):
                log.info("provider %s: a subscription is confirmed", row.provider)
                return "confirmed", Response(status_code=200)
            return await self._kept(Taken(row, reader, incoming.headers, incoming.body))
        except Forged as error:
            return "refused", self._refused(row, error, checking=checking)
        except (Recoverable, *AWAY) as error:
            log.warning("provider %s: a webhook can't be taken now: %s", row.provider, type(error).__name__)
            return "unavailable", unavailable(str(error) if isinstance(error, Recoverable) else "send it again")

    async def _kept(self, taken: Taken) -> tuple[str, Response]:
        large = len(taken.body) > BODY_MAX
        make = (taken, self._rt.new_id, self._rt.clock())
        made = await asyncio.to_thread(records, *make) if large else records(*make)
        places = await self._world.log.append([Entry(PROVIDER_WEBHOOKS, None, record) for record in made])
        if None in places:
            return "unavailable", unavailable("the log did not confirm it in time")
        self._heard.note(taken.row.provider, "taken", self._rt.clock())
        return "taken", Response(status_code=200)

    def _refused(self, row: admin.Provider, error: Forged, *, checking: bool) -> Response:
        if not checking:
            self._world.metrics.forged.labels("webhook").inc()
            self._heard.note(row.provider, "refused", self._rt.clock(), str(error))
        if isinstance(error, NotLoggedIn):
            # Not 403 either way: Postmark repeats after a 401, and never again after a 403.
            asked = {"WWW-Authenticate": 'Basic realm="webhooks", charset="UTF-8"'}
            return respond(401, str(error), "Authorization", asked)
        return respond(403, str(error), "signature")

    def _mark(self, row: admin.Provider, incoming: Incoming) -> dict[str, str]:
        """The answer's header where this is a check of our own; empty for a webhook."""
        value = incoming.headers.get(self_check.HEADER, "")
        if not value or not self_check.asked(self._check, row.provider, value, self._rt.clock()):
            return {}
        return {self_check.HEADER: self_check.answer(self._check, value)}

    def _url(self, request: Request) -> str:
        """As the provider knows it: our public address, whatever proxy stands in between."""
        query = f"?{request.url.query}" if request.url.query else ""
        return self._rt.settings.public_url.rstrip("/") + request.url.path + query
