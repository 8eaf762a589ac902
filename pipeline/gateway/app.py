"""A world -> the whole HTTP surface: every router, one shape of errors, headers and counters on every answer."""

import time
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.gateway import localizations, problems, request_body
from pipeline.gateway.headers import SAFE
from pipeline.gateway.metrics import Metrics
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
from pipeline.gateway.state import World

_SURFACES: Final = {
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

SHAPES: Final[dict[str, problems.Shape]] = {
    "/channels": fasttrack.shape,
    "//channels": fasttrack.shape,
    "/v1": email_v1.shape,
    "/v3": freshmail.shape,
    "/mail/v1": extrahorizon.shape,
    "/auth/v2": oauth.shape,
}
"""A dialect's paths -> how its clients expect an error."""
TYPES: Final = {
    "Template": (*templates.TYPES, *localizations.TYPES),
    "Suppression": suppressions.TYPES,
    "EmailV1": email_v1.TYPES,
    "FreshMail": freshmail.TYPES,
    "ExtraHorizon": extrahorizon.TYPES,
    "OAuth": oauth.TYPES,
}
"""A prefix -> the types of a surface, for OpenAPI."""


def make_app(world: World) -> ASGIApp:
    """The application."""
    app = FastAPI(
        title="Mailfold",
        description="What became of every email: send requests in, delivery events folded, history out.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.bodies = request_body.BodyLimits(world.memory, world.rt.settings.http_body_timeout, world.callers.site)
    problems.install(app, SHAPES)
    dialects = (fasttrack, email_v1, extrahorizon, oauth, freshmail)
    for surface in (*dialects, templates, localizations, suppressions, unsubscribe, webhooks, inbound, ops):
        app.include_router(surface.router(world))
    common.install(app, TYPES)
    docs_page.install(app)
    return tracking.Tracking(Observed(app, world.metrics), world)


class Observed:
    """Plain ASGI around the application: counts each answer and puts the headers on it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        surface = _SURFACES.get(scope["path"].strip("/").partition("/")[0], "other")

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
                self._metrics.requests.labels(surface, message["status"]).inc()
                self._metrics.seconds.labels(surface).observe(time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            request_body.release(scope)
