"""Serve `/healthz`, `/readyz` and `/metrics` for the operator's monitoring; the application includes its router."""

import asyncio
import hmac
from collections.abc import Awaitable
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.errors import LogUnavailable
from pipeline.gateway.auth import api_key_of
from pipeline.gateway.metrics import PipelineGauges
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.state import GatewayState
from pipeline.runtime.database import DATABASE_UNAVAILABLE_ERRORS, ping_database
from pipeline.runtime.ttl_cache import TTLCache

PROBE_TIMEOUT_S: Final = 3.0
READINESS_TTL_S: Final = 1.0
"""Seconds for which `/readyz` repeats its last result: anybody may call it, and each check costs Kafka and Postgres."""


def router(state: GatewayState) -> APIRouter:
    """Return the routes for operators."""
    routes = APIRouter(tags=["operation"])
    gauges = PipelineGauges(state.runtime.pool, state.metrics)
    readiness: TTLCache[str, dict[str, str]] = TTLCache(READINESS_TTL_S, 1)

    @routes.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        """Answer 200 without a check of Kafka or Postgres."""
        return {"status": "ok"}

    @routes.get("/readyz", summary="Kafka and Postgres answer", responses={503: {"description": "One does not."}})
    async def readyz(response: Response) -> dict[str, object]:
        """Answer 503, with a reason for each, if Kafka or Postgres does not answer."""
        problems = await readiness.get("", lambda _: _find_problems(state))
        response.status_code = 503 if problems else 200
        return {"status": "unavailable" if problems else "ok", "problems": problems}

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Return the metrics to the bearer of MAILFOLD_METRICS_KEY, or without that setting to this machine alone."""
        _authorize_metrics(state, request)
        await gauges.refresh()
        return Response(state.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _authorize_metrics(state: GatewayState, request: Request) -> None:
    """Raise HttpProblem unless the caller may read the metrics: they reveal how much each tenant and brand sends."""
    if key := state.runtime.settings.metrics_key.get_secret_value():
        if not hmac.compare_digest(api_key_of(request).encode(), key.encode()):
            raise HttpProblem(401, "metrics are for the bearer of MAILFOLD_METRICS_KEY", "Authorization")
        return
    is_local = request.client is not None and request.client.host in ("127.0.0.1", "::1")
    # With a proxy on this machine, every request comes from a local address.
    if not is_local or any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via")):
        raise HttpProblem(403, "metrics are for this machine only, unless MAILFOLD_METRICS_KEY is set", "/metrics")


async def _find_problems(state: GatewayState) -> dict[str, str]:
    """Return the reason for each of Kafka and Postgres that does not answer."""
    runtime = state.runtime
    results = await asyncio.gather(
        _find_problem(runtime.log.ping()), _find_problem(ping_database(runtime.pool, PROBE_TIMEOUT_S))
    )
    return {name: problem for name, problem in zip(("kafka", "postgres"), results, strict=True) if problem}


async def _find_problem(ping: Awaitable[None]) -> str:
    """Return why a ping fails, or "" if it succeeds in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await ping
    except TimeoutError:
        return f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    except (LogUnavailable, *DATABASE_UNAVAILABLE_ERRORS) as error:
        # The type alone: the message may contain host names, and anybody may call /readyz.
        return f"does not answer ({type(error).__name__})"
    return ""
