"""`POST /webhooks/{provider}`: an authentic request -> its raw bytes on the log, before anybody interprets them."""

import asyncio
import logging
import re
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline import admin
from pipeline.errors import AuthenticationFailed, InvalidSignatureError, NotFound, RecoverableError
from pipeline.gateway.problems import HttpProblem, problem_response, unavailable_response
from pipeline.gateway.request_body import OWNER_SCOPE_KEY, read_raw_body
from pipeline.gateway.state import GatewayState
from pipeline.gateway.webhook_log import WebhookActivity
from pipeline.gateway.webhook_record import (
    RECORD_BODY_MAX_BYTES,
    REQUEST_MAX_BYTES,
    VerifiedWebhook,
    split_into_records,
)
from pipeline.gateway.webhook_verifier import WebhookVerifier
from pipeline.runtime.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.ttl_cache import TTLCache
from pipeline.webhooks import self_check
from pipeline.webhooks.base import Adapter, WebhookRequest
from pipeline.webhooks.providers.registry import PROBE_ADAPTERS, VERIFIED_BY_HEADERS, adapter_for
from topics.registry import PROVIDER_WEBHOOKS

PROVIDER_TTL_S: Final = 3.0
_PROVIDER_QUERY_TIMEOUT_S: Final = 1.0
_PROVIDER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a provider can be called (admin.providers); nothing else is worth a question to Postgres."""
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "The user or the password is not this provider's."},
    403: {"description": "The signature is not this provider's, or stale."},
    404: {"description": "No such provider, or none that sends webhooks."},
    413: {"description": f"Over {REQUEST_MAX_BYTES} bytes."},
    503: {"description": "Nothing was taken, or nobody knows; send it again."},
}
log = logging.getLogger(__name__)


def router(world: GatewayState) -> APIRouter:
    """The providers' surface."""
    routes = APIRouter(tags=["providers"])
    known = _ProviderLookup(world)
    reception = _WebhookReceiver(world)

    # 200, not 204: Mailgun, Postmark and Mandrill ask for exactly that.
    @routes.post("/webhooks/{provider}", summary="Take a provider's webhook", status_code=200, responses=_RESPONSES)
    async def webhook(provider: str, request: Request) -> Response:
        """Verify, append the raw bytes, answer 200. 503: not durable, the provider tries again."""
        row, reader = await known.find(provider)
        return await reception.take(row, reader, request)

    @routes.get("/webhooks/{provider}", summary="Is this a webhook's URL?", responses={404: _RESPONSES[404]})
    @routes.head("/webhooks/{provider}", include_in_schema=False)
    async def probe(provider: str) -> Response:
        """Some providers look before they save a URL: Mandrill by HEAD, people by their browser."""
        await known.find(provider)
        return Response("Webhooks are POSTed here.\n", media_type="text/plain")

    return routes


class _ProviderLookup:
    """Providers' rows, remembered; while Postgres is away, as they last were: the log may well be there."""

    def __init__(self, world: GatewayState) -> None:
        self._pool = world.runtime.pool
        self._secret = world.runtime.settings.secret.get_secret_value()
        self._rows: TTLCache[str, admin.Provider | None] = TTLCache(PROVIDER_TTL_S, 1_000)
        self._last: dict[str, admin.Provider] = {}

    async def find(self, name: str) -> tuple[admin.Provider, Adapter]:
        """The row and who reads its webhooks. Raises Problem 404, AWAY."""
        row = await self._rows.get(name, self._ask) if _PROVIDER_NAME.fullmatch(name) else None
        if row is None:
            raise HttpProblem(404, "no such provider", f"/webhooks/{name}")
        try:
            return row, adapter_for(row.kind)
        except NotFound as error:
            raise HttpProblem(404, str(error), f"/webhooks/{name}") from None

    async def _ask(self, name: str) -> admin.Provider | None:
        try:
            async with asyncio.timeout(_PROVIDER_QUERY_TIMEOUT_S if name in self._last else None):
                self._last[name] = await admin.get_provider(self._pool, name, self._secret)
        except NotFound:
            self._last.pop(name, None)
        except (*DATABASE_UNAVAILABLE_ERRORS, TimeoutError):
            if name not in self._last:
                raise
        return self._last.get(name)


class _WebhookReceiver:
    """Takes requests in."""

    def __init__(self, world: GatewayState) -> None:
        self._world = world
        self._rt = world.runtime
        self._verifier = WebhookVerifier(world)
        self._heard = WebhookActivity(world.runtime.pool)
        self._check = self_check.signer(world.runtime.settings.secret.get_secret_value())

    async def take(self, row: admin.Provider, reader: Adapter, request: Request) -> Response:
        """Return the answer; each is counted."""
        heads = WebhookRequest(headers=dict(request.headers), body=b"", url=self._url(request))
        mark = self._mark(row, heads)
        try:
            self._prove_by_headers(row, reader, heads, request)
        except InvalidSignatureError as error:
            outcome, answer = "refused", self._refused(row, error, checking=bool(mark))
        else:
            body = await read_raw_body(request, min(REQUEST_MAX_BYTES, self._rt.settings.body_max))
            incoming = msgspec.structs.replace(heads, body=body)
            outcome, answer = await self._answered(row, reader, incoming, checking=bool(mark))
        answer.headers.update(mark)
        self._world.metrics.webhooks.labels(row.provider, outcome).inc()
        return answer

    def _prove_by_headers(self, row: admin.Provider, reader: Adapter, heads: WebhookRequest, request: Request) -> None:
        """Raise Forged before a byte of the body is read, where the headers alone prove who asks.

        What is proven so takes the provider's share of memory; anybody else takes the share of their address.
        """
        if row.kind in VERIFIED_BY_HEADERS and row.webhook_keys:
            reader.verify(heads, row.webhook_keys, self._rt.clock(), self._rt.settings.webhook_max_age)
            request.scope[OWNER_SCOPE_KEY] = f"provider {row.provider}"

    async def _answered(
        self, row: admin.Provider, reader: Adapter, incoming: WebhookRequest, *, checking: bool
    ) -> tuple[str, Response]:
        greeting = PROBE_ADAPTERS.get(row.kind)
        if greeting is not None and greeting.is_probe(incoming):
            return "greeted", Response(status_code=200)
        try:
            await self._verifier.verify(row, reader, incoming)
            if checking:
                return "checked", Response(status_code=200)
            if await self._verifier.confirm_subscription(row, incoming):
                log.info("provider %s: a subscription is confirmed", row.provider)
                return "confirmed", Response(status_code=200)
            return await self._kept(VerifiedWebhook(row, reader, incoming.headers, incoming.body))
        except InvalidSignatureError as error:
            return "refused", self._refused(row, error, checking=checking)
        except (RecoverableError, *DATABASE_UNAVAILABLE_ERRORS) as error:
            log.warning("provider %s: a webhook can't be taken now: %s", row.provider, type(error).__name__)
            return "unavailable", unavailable_response(
                str(error) if isinstance(error, RecoverableError) else "send it again"
            )

    async def _kept(self, taken: VerifiedWebhook) -> tuple[str, Response]:
        large = len(taken.body) > RECORD_BODY_MAX_BYTES
        make = (taken, self._rt.new_id, self._rt.clock())
        made = await asyncio.to_thread(split_into_records, *make) if large else split_into_records(*make)
        places = await self._world.log.append([LogEntry(PROVIDER_WEBHOOKS, None, record) for record in made])
        if None in places:
            return "unavailable", unavailable_response("the log did not confirm it in time")
        self._heard.record(taken.provider.provider, "taken", self._rt.clock())
        return "taken", Response(status_code=200)

    def _refused(self, row: admin.Provider, error: InvalidSignatureError, *, checking: bool) -> Response:
        if not checking:
            self._world.metrics.invalid_signatures.labels("webhook").inc()
            self._heard.record(row.provider, "refused", self._rt.clock(), str(error))
        if isinstance(error, AuthenticationFailed):
            # Not 403 either way: Postmark repeats after a 401, and never again after a 403.
            asked = {"WWW-Authenticate": 'Basic realm="webhooks", charset="UTF-8"'}
            return problem_response(401, str(error), "Authorization", asked)
        return problem_response(403, str(error), "signature")

    def _mark(self, row: admin.Provider, incoming: WebhookRequest) -> dict[str, str]:
        """The answer's header where this is a check of our own; empty for a webhook."""
        value = incoming.headers.get(self_check.HEADER, "")
        if not value or not self_check.is_check_request(self._check, row.provider, value, self._rt.clock()):
            return {}
        return {self_check.HEADER: self_check.response_header(self._check, value)}

    def _url(self, request: Request) -> str:
        """As the provider knows it: our public address, whatever proxy stands in between."""
        query = f"?{request.url.query}" if request.url.query else ""
        return self._rt.settings.public_url.rstrip("/") + request.url.path + query
