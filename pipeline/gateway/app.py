"""Build the gateway's HTTP application: all routers, error shapes, and headers and metrics on every response.

The server calls `make_app` once per process.
"""

import contextlib
import time
from contextlib import AbstractContextManager
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.gateway import localizations, problems, request_body, request_id, route_scopes
from pipeline.gateway.console.router import router as console_router
from pipeline.gateway.headers import SECURITY_HEADERS
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.openapi import common, docs_page
from pipeline.gateway.routes import (
    changes,
    email_v1,
    emails,
    exports,
    extrahorizon,
    fasttrack,
    freshmail,
    inbound,
    oauth,
    ops,
    statistics,
    suppressions,
    templates,
    tracking,
    unsubscribe,
    webhooks,
)
from pipeline.gateway.state import GatewayState
from pipeline.runtime.observing.tracing import HEADER, NO_SPAN, NO_TRACER, Span, Tracer
from pipeline.runtime.ports import NewId

_SURFACE_BY_FIRST_SEGMENT: Final = {
    "channels": "batch",
    "v1": "email_v1",
    "api": "api",
    "v3": "freshmail",
    "mail": "extrahorizon",
    "auth": "extrahorizon",
    "u": "unsubscribe",
    "webhooks": "webhook",
    "inbound": "inbound",
    "templates": "templates",
    "localizations": "templates",
    "suppressions": "suppressions",
    "healthz": "ops",
    "readyz": "ops",
    "metrics": "ops",
    "docs": "docs",
    "openapi.json": "docs",
    "console": "console",
}

_TRACED_METHODS: Final = ("POST", "PUT")
_SENDING_SURFACES: Final = ("batch", "email_v1", "freshmail", "extrahorizon")
"""Surfaces whose callers' trace context is continued. Anybody may post to the others; they begin their own traces."""
_TRACED_SURFACES: Final = (*_SENDING_SURFACES, "webhook", "inbound")

ERROR_ENCODERS: Final[dict[str, problems.ErrorEncoder]] = {
    "/channels": fasttrack.encode_error,
    "//channels": fasttrack.encode_error,
    "/v1": email_v1.encode_error,
    "/v3": freshmail.encode_error,
    "/mail/v1": extrahorizon.encode_error,
    "/auth/v2": oauth.encode_error,
    "/api": problems.encode_problem_details,
}
"""JSON shapes of errors, by path prefix."""
OPENAPI_TYPES: Final = (
    *emails.OPENAPI_TYPES,
    *exports.OPENAPI_TYPES,
    *templates.OPENAPI_TYPES,
    *localizations.OPENAPI_TYPES,
    *suppressions.OPENAPI_TYPES,
    *email_v1.OPENAPI_TYPES,
    *freshmail.OPENAPI_TYPES,
    *extrahorizon.OPENAPI_TYPES,
    *oauth.OPENAPI_TYPES,
    *statistics.OPENAPI_TYPES,
)
"""The types whose schemas are the components of the OpenAPI document."""


def make_app(state: GatewayState) -> ASGIApp:
    """Return the ASGI application."""
    app = FastAPI(
        title="Mailfold",
        description="Accepts send requests and delivery events, and lists the status and history of every email.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.bodies = request_body.BodyLimits(
        state.body_memory, state.runtime.settings.http_body_timeout, state.client_info.site
    )
    problems.install_error_handlers(app, ERROR_ENCODERS)
    dialects = (fasttrack, email_v1, extrahorizon, oauth, freshmail)
    api_v1 = (emails, changes, statistics, exports)
    others = (*api_v1, templates, localizations, suppressions, unsubscribe, webhooks, inbound, ops)
    routers = [routes.router(state) for routes in (*dialects, *others)]
    common.install_schemas(app, OPENAPI_TYPES)
    docs_page.install_docs_page(app)
    if state.runtime.settings.console:
        routers.append(console_router(state))
    console_routes = route_scopes.CONSOLE_ROUTES if state.runtime.settings.console else ()
    route_scopes.check_routes([*app.routes, *(route for router in routers for route in router.routes)], console_routes)
    for router in routers:
        app.include_router(router)
    rt = state.runtime
    return tracking.TrackingMiddleware(ResponseMiddleware(app, state.metrics, rt.new_id, rt.tracer), state)


class ResponseMiddleware:
    """The ASGI wrapper that counts every response and adds the request's id and the security headers to it."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, new_id: NewId, tracer: Tracer = NO_TRACER) -> None:
        self._app = app
        self._metrics = metrics
        self._new_id = new_id
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        own_id = request_id.begin_request(scope, self._new_id)
        surface = _SURFACE_BY_FIRST_SEGMENT.get(scope["path"].strip("/").partition("/")[0], "other")

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers[request_id.HEADER] = own_id
                self._metrics.requests.labels(surface, message["status"]).inc()
                self._metrics.request_seconds.labels(surface).observe(time.perf_counter() - started)
                span.set_attributes({"http.response.status_code": message["status"]})
            await send(message)

        try:
            with self._request_span(scope, surface, own_id) as span:
                await self._app(scope, receive, send_observed)
        finally:
            request_body.release_body(scope)

    def _request_span(self, scope: Scope, surface: str, own_id: str) -> AbstractContextManager[Span]:
        """Return the span of a request that may bring emails or events. Not its path, which may name an address."""
        method = scope["method"]
        if not self._tracer.is_on or surface not in _TRACED_SURFACES or method not in _TRACED_METHODS:
            return contextlib.nullcontext(NO_SPAN)
        attributes = {"http.request.method": method, "mailfold.surface": surface, "mailfold.request_id": own_id}
        sent = Headers(scope=scope).get(HEADER, "") if surface in _SENDING_SURFACES else ""
        return self._tracer.request_span(f"{method} {surface}", attributes, sent)
