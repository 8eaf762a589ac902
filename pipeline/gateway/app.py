"""A world -> the whole HTTP surface: every router, one shape of errors, headers and counters on every answer."""

import time
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.gateway import localizations, problems, request_body
from pipeline.gateway.headers import SECURITY_HEADERS
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.openapi import common, docs_page
from pipeline.gateway.routes import (
    email_v1,
    extrahorizon,
    fasttrack,
    freshmail,
    inbound,
    oauth,
    ops,
    suppressions,
    templates,
    tracking,
    unsubscribe,
    webhooks,
)
from pipeline.gateway.state import GatewayState

_SURFACE_BY_FIRST_SEGMENT: Final = {
    "channels": "batch",
    "v1": "email_v1",
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
}

ERROR_ENCODERS: Final[dict[str, problems.ErrorEncoder]] = {
    "/channels": fasttrack.encode_error,
    "//channels": fasttrack.encode_error,
    "/v1": email_v1.encode_error,
    "/v3": freshmail.encode_error,
    "/mail/v1": extrahorizon.encode_error,
    "/auth/v2": oauth.encode_error,
}
"""A dialect's paths -> how its clients expect an error."""
OPENAPI_TYPES: Final = (
    *templates.OPENAPI_TYPES,
    *localizations.OPENAPI_TYPES,
    *suppressions.OPENAPI_TYPES,
    *email_v1.OPENAPI_TYPES,
    *freshmail.OPENAPI_TYPES,
    *extrahorizon.OPENAPI_TYPES,
    *oauth.OPENAPI_TYPES,
)
"""The types whose schemas are the components of the OpenAPI document."""


def make_app(world: GatewayState) -> ASGIApp:
    """The application."""
    app = FastAPI(
        title="Mailfold",
        description="What became of every email: send requests in, delivery events folded, history out.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.bodies = request_body.BodyLimits(
        world.body_memory, world.runtime.settings.http_body_timeout, world.client_info.site
    )
    problems.install_error_handlers(app, ERROR_ENCODERS)
    dialects = (fasttrack, email_v1, extrahorizon, oauth, freshmail)
    for surface in (*dialects, templates, localizations, suppressions, unsubscribe, webhooks, inbound, ops):
        app.include_router(surface.router(world))
    common.install_schemas(app, OPENAPI_TYPES)
    docs_page.install_docs_page(app)
    return tracking.TrackingMiddleware(ResponseMiddleware(app, world.metrics), world)


class ResponseMiddleware:
    """Plain ASGI around the application: counts each answer and puts the headers on it."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        surface = _SURFACE_BY_FIRST_SEGMENT.get(scope["path"].strip("/").partition("/")[0], "other")

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                self._metrics.requests.labels(surface, message["status"]).inc()
                self._metrics.request_seconds.labels(surface).observe(time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            request_body.release_body(scope)
