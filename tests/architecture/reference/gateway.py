"""The gateway's application, made without servers, to ask what it serves and what it counts."""

from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from pydantic import SecretStr

from pipeline.gateway.app import make_app
from pipeline.gateway.state import make_gateway_state
from pipeline.runtime.bootstrap import Runtime, fresh_id, wall_clock
from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.runtime.observing.tracing import NO_TRACER
from pipeline.settings import Settings


@cache
def offline() -> Any:
    """Return a gateway's state, whose application has all routes; it has no log and no database."""
    settings = Settings(secret=SecretStr("x" * 32))
    rt = SimpleNamespace(
        settings=settings,
        log=None,
        pool=None,
        clock=wall_clock,
        new_id=fresh_id,
        stop=None,
        health=RoleHealth("gateway"),
        tracer=NO_TRACER,
    )
    return make_gateway_state(cast("Runtime", rt))


@cache
def openapi() -> dict[str, Any]:
    app: Any = make_app(offline())
    while not hasattr(app, "openapi"):
        app = app._app
    document: dict[str, Any] = app.openapi()
    return document
