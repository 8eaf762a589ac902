"""`POST /auth/v2/oauth2/tokens`: an API key as a password in, tokens for it out; tokens in, their tenant out.

What Extra Horizon's SDK does before its first request, mapped onto API keys: the password is the
key, the user's name and the client's id may be anything. A token lasts an hour and is refreshed by
the SDK itself; it works as long as its key does.
"""

import time
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline import admin
from pipeline.admin import Tenant
from pipeline.dialects.extrahorizon import Trouble
from pipeline.errors import Forged, Refused
from pipeline.gateway import access
from pipeline.gateway.auth import BOUND, REMEMBERED_S, given_key
from pipeline.gateway.bodies import OWNER, read_body
from pipeline.gateway.cache import Cache
from pipeline.gateway.fair_threads import CALLER
from pipeline.gateway.problems import Problem
from pipeline.gateway.world import World
from pipeline.json_items import typed
from pipeline.signing import Signer
from topics.ids import owner_uuid

BODY_MAX: Final = 16_384
_FORM: Final = "application/x-www-form-urlencoded"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749's parameters, as JSON (the SDK) or as a form (the standard)."""

    grant_type: str
    username: str = ""
    password: str = ""
    refresh_token: str = ""


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the standard's word
    expires_in: int = access.LASTS_S["access"]
    user_id: str
    application_id: str = "mailfold"


class Unauthorized(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749 §5.2, with the SDK's own names for it."""

    error: str
    error_description: str
    description: str


TYPES: Final = (Asked, Tokens, Unauthorized)
_asked: Final = msgspec.json.Decoder(Asked).decode
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def shape(_status: int, error: str, _where: str) -> bytes:
    """An error as OAuth's clients expect it."""
    return msgspec.json.encode(Unauthorized(error="invalid_request", error_description=error, description=error))


def router(world: World) -> APIRouter:
    """The tokens' surface."""
    routes = APIRouter(tags=["Extra Horizon"])
    callers = Callers(world)

    @routes.post("/auth/v2/oauth2/tokens", summary="Get tokens for an API key", **_described())
    async def tokens(request: Request) -> Response:
        """Grant `password`: the password is the API key. Grant `refresh_token`: another hour."""
        asked = _read(await read_body(request, BODY_MAX), request.headers.get("content-type", ""))
        try:
            return _json(await callers.grant(asked), 200)
        except Forged as error:
            name, _, why = str(error).partition(": ")
            return _json(Unauthorized(error=name, error_description=why, description=why), 400)

    return routes


class Callers:
    """Who calls, by a key or by a token that stands for one."""

    def __init__(self, world: World) -> None:
        self._pool = world.rt.pool
        self._clock = world.rt.clock
        self._by_key = world.authenticate
        self._signer = Signer(world.rt.settings.secret.get_secret_value(), "access")
        self._known: Cache[bytes, Tenant | None] = Cache(REMEMBERED_S, BOUND, time.monotonic)

    async def tenant(self, request: Request) -> Tenant:
        """The caller's tenant. Raises Trouble: 104, 117 (unknown) or 118 (expired), upon which the SDK refreshes."""
        key = given_key(request)
        if not key:
            raise Trouble(104, "no access token and no API key: send one as Authorization: Bearer, or X-Api-Key")
        if not key.startswith(access.PREFIX):
            return await self._tenant_of_key(request)
        try:
            tenant = await self._tenant(access.read(self._signer, "access", key, self._clock()))
        except access.Expired:
            raise Trouble(118, "the access token is expired") from None
        except Forged:
            tenant = None
        if tenant is None:
            raise Trouble(117, "the access token is unknown, or its API key is revoked")
        CALLER.set(tenant.tenant)
        request.scope[OWNER] = f"tenant {tenant.tenant}"
        return tenant

    async def grant(self, asked: Asked) -> Tokens:
        """New tokens. Raises Forged, whose words begin with the standard's name for it."""
        if asked.grant_type == "password":
            key_hash = admin.key_hash(asked.password)
        elif asked.grant_type == "refresh_token":
            try:
                key_hash = access.read(self._signer, "refresh", asked.refresh_token, self._clock())
            except Forged as error:
                raise Forged(f"invalid_grant: {error}") from None
        else:
            raise Forged("unsupported_grant_type: only password (an API key) and refresh_token")
        tenant = await self._tenant(key_hash)
        if tenant is None:
            raise Forged("invalid_grant: the password must be an API key that is in force")
        tokens = {kind: access.issue(self._signer, kind, key_hash, self._clock()) for kind in access.LASTS_S}
        user = owner_uuid(tenant.tenant)
        return Tokens(access_token=tokens["access"], refresh_token=tokens["refresh"], user_id=user)

    async def _tenant(self, key_hash: bytes) -> Tenant | None:
        return await self._known.get(key_hash, lambda hashed: admin.tenant_of_hash(self._pool, hashed))

    async def _tenant_of_key(self, request: Request) -> Tenant:
        try:
            return await self._by_key(request)
        except Problem as problem:
            raise Trouble(117, problem.error) from None


def _read(body: bytes, media: str) -> Asked:
    if media.partition(";")[0].strip().lower() != _FORM:
        return typed(_asked, body)
    try:
        return msgspec.convert(dict(parse_qsl(body.decode(), max_num_fields=20)), Asked)
    except (ValueError, msgspec.ValidationError) as error:
        raise Refused(f"not a form that can be read: {error}", "body") from None


def _json(value: Any, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, headers=_NO_STORE, media_type="application/json")


def _described() -> dict[str, Any]:
    def media(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/OAuth{name}"}}}

    error = {"description": "No tokens, and why.", "content": media("Unauthorized")}
    return {
        "response_class": Response,
        "openapi_extra": {"requestBody": {"required": True, "content": media("Asked")}},
        "responses": {200: {"description": "Tokens.", "content": media("Tokens")}, 400: error, 413: error, 503: error},
    }
