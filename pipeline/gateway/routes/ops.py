"""Serve `/healthz`, `/readyz` and `/metrics` for the operator's monitoring; the application includes its router."""

import hmac

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.gateway.auth import api_key_of
from pipeline.gateway.metrics import PipelineGauges
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.state import GatewayState


def router(state: GatewayState) -> APIRouter:
    """Return the routes for operators."""
    routes = APIRouter(tags=["operation"])
    health = state.runtime.health
    health.add_gauges(PipelineGauges(state.runtime.pool, state.metrics).refresh)

    @routes.get("/healthz", summary="The process is alive")
    async def healthz() -> dict[str, str]:
        """Answer 200 without a check of Kafka or Postgres."""
        return {"status": "ok"}

    @routes.get("/readyz", summary="Kafka and Postgres answer", responses={503: {"description": "One does not."}})
    async def readyz(response: Response) -> dict[str, object]:
        """Answer 503, with a reason for each, if Kafka or Postgres does not answer."""
        problems = await health.find_problems()
        response.status_code = 503 if problems else 200
        return {"status": "unavailable" if problems else "ok", "problems": problems}

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Return the metrics to the bearer of MAILFOLD_METRICS_KEY, or without that setting to this machine alone."""
        _authorize_metrics(state, request)
        await health.refresh_gauges()
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
