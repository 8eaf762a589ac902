"""`/healthz`, `/readyz`, `/metrics`: what an operator's machines ask."""

import asyncio
import hmac
from collections.abc import Awaitable
from typing import Final

import psycopg
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from psycopg_pool import PoolTimeout

from pipeline.errors import LogUnavailable
from pipeline.gateway.auth import api_key_of
from pipeline.gateway.metrics import PipelineGauges
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.state import GatewayState
from pipeline.runtime.ttl_cache import TTLCache

PROBE_TIMEOUT_S: Final = 3.0
READINESS_TTL_S: Final = 1.0
"""Anybody may ask /readyz; Kafka and Postgres are asked this seldom."""


def router(world: GatewayState) -> APIRouter:
    """The operator's surface."""
    routes = APIRouter(tags=["operation"])
    gauges = PipelineGauges(world.runtime.pool, world.metrics)
    ready: TTLCache[str, dict[str, str]] = TTLCache(READINESS_TTL_S, 1)

    @routes.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        """Nothing but that."""
        return {"status": "ok"}

    @routes.get("/readyz", summary="Kafka and Postgres answer", responses={503: {"description": "One doesn't."}})
    async def readyz(response: Response) -> dict[str, object]:
        """503, with the reason for each that doesn't answer."""
        problems = await ready.get("", lambda _: _problems(world))
        response.status_code = 503 if problems else 200
        return {"status": "unavailable" if problems else "ok", "problems": problems}

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """With MAILFOLD_METRICS_KEY: to its bearer. Without: to direct connections from this machine."""
        _admit(world, request)
        await gauges.refresh()
        return Response(world.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _admit(world: GatewayState, request: Request) -> None:
    """Metrics name tenants and brands and tell how much they send: nobody's business outside."""
    if key := world.runtime.settings.metrics_key.get_secret_value():
        if not hmac.compare_digest(api_key_of(request).encode(), key.encode()):
            raise HttpProblem(401, "metrics are for the bearer of MAILFOLD_METRICS_KEY", "Authorization")
        return
    local = request.client is not None and request.client.host in ("127.0.0.1", "::1")
    # Behind a proxy on this machine everybody would be local.
    if not local or any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via")):
        raise HttpProblem(403, "metrics are for this machine only, unless MAILFOLD_METRICS_KEY is set", "/metrics")


async def _problems(world: GatewayState) -> dict[str, str]:
    found = await asyncio.gather(_problem(world.runtime.log.ping()), _problem(_ask_postgres(world)))
    return {name: problem for name, problem in zip(("kafka", "postgres"), found, strict=True) if problem}


async def _problem(asked: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await asked
    except TimeoutError:
        return f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    except (LogUnavailable, psycopg.OperationalError, PoolTimeout) as error:
        # Only what kind: the message may hold addresses of machines, and anybody may ask.
        return f"does not answer ({type(error).__name__})"
    return ""


async def _ask_postgres(world: GatewayState) -> None:
    async with world.runtime.pool.connection(timeout=PROBE_TIMEOUT_S) as connection:
        await connection.execute("select 1")
