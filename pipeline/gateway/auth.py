"""A request's API key -> its tenant, or a 401; answers are remembered for a few seconds."""

from typing import Final

from fastapi import Request

from pipeline import admin
from pipeline.gateway.problems import Problem
from pipeline.gateway.request_body import OWNER
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import CALLER
from pipeline.runtime.ttl_cache import TTLCache

REMEMBERED_S: Final = 3.0
"""How long a revoked key may go on working, and a new one wait after it was tried too early."""
BOUND: Final = 10_000
"""Wrong keys remembered; a flood of them must cost no memory."""


class Authenticate:
    """A FastAPI dependency: ``tenant: Annotated[Tenant, Depends(Authenticate(rt))]``.

    The key is looked up by its SHA-256, so no comparison's duration tells anything about a key.
    """

    def __init__(self, rt: Runtime) -> None:
        self._pool = rt.pool
        self._known: TTLCache[bytes, admin.Tenant | None] = TTLCache(REMEMBERED_S, BOUND)

    async def __call__(self, request: Request) -> admin.Tenant:
        """The tenant of ``X-Api-Key``, or of ``Authorization: Bearer``. Raises Problem 401."""
        key = given_key(request)
        if not key:
            raise _unauthorized("no API key: send it as X-Api-Key, or as Authorization: Bearer")
        tenant = await self._known.get(admin.key_hash(key), lambda _: admin.tenant_of_key(self._pool, key))
        if tenant is None:
            raise _unauthorized("the API key is unknown or revoked")
        CALLER.set(tenant.tenant)
        request.scope[OWNER] = f"tenant {tenant.tenant}"
        return tenant


def given_key(request: Request) -> str:
    """The key that a request carries; empty if none."""
    if key := request.headers.get("x-api-key", "").strip():
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(error: str) -> Problem:
    return Problem(401, error, "X-Api-Key", {"WWW-Authenticate": "Bearer"})
