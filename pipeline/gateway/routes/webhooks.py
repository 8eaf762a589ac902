"""Serve `POST /webhooks/{provider}`: verify a provider's request and append its raw bytes to the log.

The application includes its router. The worker interprets the bytes later.
"""

import asyncio
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
from pipeline.runtime.observing.logs import bind_log_fields, get_logger
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.ttl_cache import TTLCache
from pipeline.webhooks import self_check
from pipeline.webhooks.base import Adapter, WebhookRequest
from pipeline.webhooks.providers.registry import PROBE_ADAPTERS, VERIFIED_BY_HEADERS, adapter_for
from topics.registry import PROVIDER_WEBHOOKS

PROVIDER_TTL_S: Final = 3.0
_PROVIDER_QUERY_TIMEOUT_S: Final = 1.0
_PROVIDER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""Names that a provider can have (see admin.providers); other names are not looked up in Postgres."""
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "The user name or the password is not this provider's."},
    403: {"description": "The signature is not this provider's, or stale."},
    404: {"description": "No such provider, or one without webhooks."},
    413: {"description": f"Over {REQUEST_MAX_BYTES} bytes."},
    503: {"description": "Not confirmed in time; send it again."},
}
log = get_logger(__name__)


def router(state: GatewayState) -> APIRouter:
    """Return the routes for providers' webhooks."""
    routes = APIRouter(tags=["providers"])
    providers = _ProviderLookup(state)
    receiver = _WebhookReceiver(state)

    # 200, not 204: Mailgun, Postmark and Mandrill require it.
    @routes.post("/webhooks/{provider}", summary="Receive a provider's webhook", status_code=200, responses=_RESPONSES)
    async def webhook(provider: str, request: Request) -> Response:
        """Verify the request and append its raw bytes. 503: not confirmed in time, the provider tries again."""
        row, adapter = await providers.find(provider)
        bind_log_fields(provider=row.provider)
        return await receiver.receive(row, adapter, request)

    @routes.get("/webhooks/{provider}", summary="Check a webhook's URL", responses={404: _RESPONSES[404]})
    @routes.head("/webhooks/{provider}", include_in_schema=False)
    async def probe(provider: str) -> Response:
        """Answer 200 if the URL is a provider's: Mandrill checks it by HEAD before it saves it, people by browser."""
        await providers.find(provider)
        return Response("Webhooks are POSTed here.\n", media_type="text/plain")

    return routes


class _ProviderLookup:
    """A cache of providers' rows; while Postgres is down it serves the last known row, so webhooks still work."""

    def __init__(self, state: GatewayState) -> None:
        self._pool = state.runtime.pool
        self._ring = secret_ring(state.runtime.settings)
        self._rows: TTLCache[str, admin.Provider | None] = TTLCache(PROVIDER_TTL_S, 1_000)
        self._last_rows: dict[str, admin.Provider] = {}

    async def find(self, name: str) -> tuple[admin.Provider, Adapter]:
        """Return a provider's row and adapter.

        Raises HttpProblem 404, or one of DATABASE_UNAVAILABLE_ERRORS if no row is cached.
        """
        row = await self._rows.get(name, self._load) if _PROVIDER_NAME.fullmatch(name) else None
        if row is None:
            raise HttpProblem(404, "no such provider", f"/webhooks/{name}")
        try:
            return row, adapter_for(row.kind)
        except NotFound as error:
            raise HttpProblem(404, str(error), f"/webhooks/{name}") from None

    async def _load(self, name: str) -> admin.Provider | None:
        """Return the row from Postgres, the last known one if Postgres does not answer, or None if there is none."""
        try:
            async with asyncio.timeout(_PROVIDER_QUERY_TIMEOUT_S if name in self._last_rows else None):
                self._last_rows[name] = await admin.get_provider(self._pool, name, self._ring)
        except NotFound:
            self._last_rows.pop(name, None)
        except (*DATABASE_UNAVAILABLE_ERRORS, TimeoutError):
            if name not in self._last_rows:
                raise
        return self._last_rows.get(name)


class _WebhookReceiver:
    """The receiver of webhook requests."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self._runtime = state.runtime
        self._verifier = WebhookVerifier(state)
        self._activity = WebhookActivity(state.runtime.pool)
        self._check_signer = self_check.signer(secret_ring(state.runtime.settings))

    async def receive(self, row: admin.Provider, adapter: Adapter, request: Request) -> Response:
        """Verify and store a request, count it by outcome, and return its response."""
        incoming = WebhookRequest(headers=dict(request.headers), body=b"", url=self._public_url(request))
        check_headers = self._check_headers(row, incoming)
        is_check = bool(check_headers)
        try:
            self._verify_headers(row, adapter, incoming, request)
        except InvalidSignatureError as error:
            outcome, response = "refused", self._refuse(row, error, is_check=is_check)
        else:
            body = await read_raw_body(request, min(REQUEST_MAX_BYTES, self._runtime.settings.body_max))
            incoming = msgspec.structs.replace(incoming, body=body)
            outcome, response = await self._process(row, adapter, incoming, is_check=is_check)
        response.headers.update(check_headers)
        self._state.metrics.webhooks.labels(row.provider, outcome).inc()
        return response

    def _verify_headers(
        self, row: admin.Provider, adapter: Adapter, incoming: WebhookRequest, request: Request
    ) -> None:
        """Raise InvalidSignatureError before the body is read, if the headers alone authenticate the provider.

        The body of an authenticated request counts towards the provider's share of memory, any other body towards
        the share of the client's address.
        """
        if row.kind in VERIFIED_BY_HEADERS and row.webhook_keys:
            adapter.verify(incoming, row.webhook_keys, self._runtime.clock(), self._runtime.settings.webhook_max_age)
            request.scope[OWNER_SCOPE_KEY] = f"provider {row.provider}"

    async def _process(
        self, row: admin.Provider, adapter: Adapter, incoming: WebhookRequest, *, is_check: bool
    ) -> tuple[str, Response]:
        """Return the request's outcome, a label of the metric, and its response."""
        probe_adapter = PROBE_ADAPTERS.get(row.kind)
        if probe_adapter is not None and probe_adapter.is_probe(incoming):
            return "greeted", Response(status_code=200)
        try:
            await self._verifier.verify(row, adapter, incoming)
            if is_check:
                return "checked", Response(status_code=200)
            if await self._verifier.confirm_subscription(row, incoming):
                log.info("webhook subscription confirmed")
                return "confirmed", Response(status_code=200)
            return await self._store(VerifiedWebhook(row, adapter, incoming.headers, incoming.body))
        except InvalidSignatureError as error:
            return "refused", self._refuse(row, error, is_check=is_check)
        except (RecoverableError, *DATABASE_UNAVAILABLE_ERRORS) as error:
            log.warning("webhook not stored", error=type(error).__name__)
            return "unavailable", unavailable_response(
                str(error) if isinstance(error, RecoverableError) else "send it again"
            )

    async def _store(self, webhook: VerifiedWebhook) -> tuple[str, Response]:
        """Append the webhook's records to the log; return the outcome and the response."""
        arguments = (webhook, self._runtime.new_id, self._runtime.clock())
        if len(webhook.body) > RECORD_BODY_MAX_BYTES:
            records = await asyncio.to_thread(split_into_records, *arguments)
        else:
            records = split_into_records(*arguments)
        positions = await self._state.log.append([LogEntry(PROVIDER_WEBHOOKS, None, record) for record in records])
        if None in positions:
            return "unavailable", unavailable_response("the log did not confirm it in time")
        self._activity.record(webhook.provider.provider, "taken", self._runtime.clock())
        return "taken", Response(status_code=200)

    def _refuse(self, row: admin.Provider, error: InvalidSignatureError, *, is_check: bool) -> Response:
        """Count and record an invalid request, unless it is a check of our own; return its 401 or 403."""
        if not is_check:
            self._state.metrics.invalid_signatures.labels("webhook").inc()
            self._activity.record(row.provider, "refused", self._runtime.clock(), str(error))
        if isinstance(error, AuthenticationFailed):
            # Postmark repeats a request after a 401, but never after a 403.
            challenge = {"WWW-Authenticate": 'Basic realm="webhooks", charset="UTF-8"'}
            return problem_response(401, str(error), "Authorization", challenge)
        return problem_response(403, str(error), "signature")

    def _check_headers(self, row: admin.Provider, incoming: WebhookRequest) -> dict[str, str]:
        """Return the response's headers if the request is a check of our own; empty for a provider's webhook."""
        value = incoming.headers.get(self_check.HEADER, "")
        if not value or not self_check.is_check_request(self._check_signer, row.provider, value, self._runtime.clock()):
            return {}
        return {self_check.HEADER: self_check.response_header(self._check_signer, value)}

    def _public_url(self, request: Request) -> str:
        """Return the URL that the provider called: below our public address, also behind a proxy."""
        query = f"?{request.url.query}" if request.url.query else ""
        return self._runtime.settings.public_url.rstrip("/") + request.url.path + query
