"""Authentication of requests by API key, and what the key may do; the routes of all dialects depend on it."""

from collections.abc import Collection
from typing import Final

from fastapi import Request

from pipeline import admin
from pipeline.admin import ApiKey, KeyScope
from pipeline.gateway.client_info import ClientInfoReader
from pipeline.gateway.key_lookup import KeyLookup
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import OWNER_SCOPE_KEY
from pipeline.gateway.route_scopes import ROUTE_SCOPES
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.observing.logs import bind_log_fields

WHERE: Final = "X-Api-Key"
"""The place that errors about keys name, also where the key came in another header."""


class ApiKeyAuthenticator:
    """A FastAPI dependency that returns a request's key: ``Annotated[ApiKey, Depends(state.authenticate)]``.

    A key that it returns has the scopes that :data:`ROUTE_SCOPES` demands of the request's route.
    """

    def __init__(self, rt: Runtime, client_info: ClientInfoReader, metrics: GatewayMetrics) -> None:
        self._clock = rt.clock
        self._lookup = KeyLookup(rt.pool, metrics.keys_refused.labels("slowed").inc)
        self._client_info = client_info
        self._refused = metrics.keys_refused

    async def __call__(self, request: Request) -> ApiKey:
        """Return the key in ``X-Api-Key`` or ``Authorization: Bearer``. Raise HttpProblem 401 or 403."""
        text = api_key_of(request)
        if not text:
            raise _unauthorized("no API key: send it as X-Api-Key, or as Authorization: Bearer")
        key = await self.find_by_text(request, text)
        if key is None:
            raise _unauthorized("the API key is unknown, revoked or expired")
        await self.admit(request, key)
        return key

    async def find_by_text(self, request: Request, text: str) -> ApiKey | None:
        """Return the key, None if it is not in force."""
        if not admin.is_possible_key(text):
            self._refused.labels("unknown").inc()
            return None
        return await self.find_by_hash(request, admin.key_hash(text))

    async def find_by_hash(self, request: Request, hashed: bytes) -> ApiKey | None:
        """Return the key with this hash, None if it is not in force."""
        key = await self._lookup.find(hashed, self._client_info.site(request.scope))
        if key is None or key.is_expired(self._clock() / 1000):
            self._refused.labels("unknown" if key is None else "expired").inc()
            return None
        return key

    async def admit(self, request: Request, key: ApiKey) -> None:
        """Let the key's tenant be the request's.

        Raise HttpProblem 403 unless the key may be used for this request, and for one to send of a suspended tenant.
        """
        await self.admit_scopes(request, key, ROUTE_SCOPES[request.method, request.scope["route"].path])

    async def admit_scopes(self, request: Request, key: ApiKey, needed: Collection[KeyScope]) -> None:
        """Do the same for a request that needs these scopes, whatever its route."""
        self.check_network(request, key)
        if missing := key.missing_scopes(needed):
            self._refused.labels("scope").inc()
            raise missing_scope(*missing)
        if KeyScope.SEND in needed and key.tenant.suspension is not None:
            self._refused.labels("suspended").inc()
            raise suspension_problem(key.tenant.tenant, key.tenant.suspension)
        await self._lookup.note_use(key, self._clock())
        CURRENT_CALLER.set(key.tenant.tenant)
        request.scope[OWNER_SCOPE_KEY] = f"tenant {key.tenant.tenant}"
        bind_log_fields(tenant=key.tenant.tenant)

    def check_network(self, request: Request, key: ApiKey) -> None:
        """Raise HttpProblem 403 if the request comes from a network in which the key must not be used."""
        if key.limits.networks and not key.may_come_from(self._client_info.address(request.scope)):
            self._refused.labels("network").inc()
            raise HttpProblem(403, "this API key must not be used from this address", WHERE)


def missing_scope(*missing: KeyScope) -> HttpProblem:
    """Return the error of a request whose key lacks these scopes."""
    names = " ".join(missing)
    challenge = f'Bearer error="insufficient_scope", scope="{names}"'  # RFC 6750 §3.1
    error = f"this API key lacks the scope {' and '.join(missing)}"
    return HttpProblem(403, error, WHERE, {"WWW-Authenticate": challenge})


def suspension_problem(tenant: str, reason: str) -> HttpProblem:
    """Return the error of a request to send for a tenant that is suspended."""
    error = f"tenant {tenant} is suspended and may not send"
    return HttpProblem(403, f"{error}: {reason}" if reason else error, WHERE)


def require_scope(key: ApiKey, scope: KeyScope) -> None:
    """Raise HttpProblem 403 if the key lacks a scope that only some requests of a route need."""
    if not key.has_scope(scope):
        raise missing_scope(scope)


def other_brand_error(key: ApiKey) -> str:
    """Return the text of the error about a brand for which the key must not be used."""
    return f"this API key is for brand {key.limits.brand} only"


def other_brand(key: ApiKey) -> HttpProblem:
    """Return the error of a request about a brand for which the key must not be used."""
    return HttpProblem(403, other_brand_error(key), WHERE)


def require_brand(key: ApiKey, brand: str) -> None:
    """Raise HttpProblem 403 if the key must not be used for this brand."""
    if not key.may_use_brand(brand):
        raise other_brand(key)


def api_key_of(request: Request) -> str:
    """Return the API key that a request carries; empty if none."""
    if key := request.headers.get("x-api-key", "").strip():
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(error: str) -> HttpProblem:
    return HttpProblem(401, error, WHERE, {"WWW-Authenticate": "Bearer"})
