"""Authentication of requests by API key, cached for a few seconds; the routes of all dialects depend on it."""

from typing import Final

from fastapi import Request

from pipeline import admin
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import OWNER_SCOPE_KEY
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.logs import bind_log_fields
from pipeline.runtime.ttl_cache import TTLCache

API_KEY_TTL_S: Final = 3.0
"""Seconds that a lookup is cached; until then a revoked key may still work, or a new key still be rejected."""
MAX_CACHED_API_KEYS: Final = 10_000
"""Keys cached, unknown ones included: a flood of wrong keys must not use up memory."""


class ApiKeyAuthenticator:
    """A FastAPI dependency that returns a request's tenant: ``Annotated[Tenant, Depends(ApiKeyAuthenticator(rt))]``.

    The key is looked up by its SHA-256 digest, so the duration of a comparison reveals nothing about a key.
    """

    def __init__(self, rt: Runtime) -> None:
        self._pool = rt.pool
        self._tenants: TTLCache[bytes, admin.Tenant | None] = TTLCache(API_KEY_TTL_S, MAX_CACHED_API_KEYS)

    async def __call__(self, request: Request) -> admin.Tenant:
        """Return the tenant of ``X-Api-Key`` or ``Authorization: Bearer``. Raise HttpProblem 401."""
        key = api_key_of(request)
        if not key:
            raise _unauthorized("no API key: send it as X-Api-Key, or as Authorization: Bearer")
        tenant = await self._tenants.get(admin.key_hash(key), lambda _: admin.tenant_of_key(self._pool, key))
        if tenant is None:
            raise _unauthorized("the API key is unknown or revoked")
        set_tenant(request, tenant)
        return tenant


def set_tenant(request: Request, tenant: admin.Tenant) -> None:
    """Make the tenant the one whose share of threads and memory the request uses, and that its log lines name."""
    CURRENT_CALLER.set(tenant.tenant)
    request.scope[OWNER_SCOPE_KEY] = f"tenant {tenant.tenant}"
    bind_log_fields(tenant=tenant.tenant)


def api_key_of(request: Request) -> str:
    """Return the API key that a request carries; empty if none."""
    if key := request.headers.get("x-api-key", "").strip():
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(error: str) -> HttpProblem:
    return HttpProblem(401, error, "X-Api-Key", {"WWW-Authenticate": "Bearer"})
