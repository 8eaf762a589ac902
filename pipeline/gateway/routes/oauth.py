"""`POST /auth/v2/oauth2/tokens`: an API key as a password in, tokens for it out; tokens in, their tenant out.

What Extra Horizon's SDK does before its first request, mapped onto API keys: the password is the
key, the user's name and the client's id may be anything. A token lasts an hour and is refreshed by
the SDK itself; it works as long as its key does.
"""

from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline import admin
from pipeline.admin import Tenant
from pipeline.dialects.extrahorizon import ERROR_CODES, ExtraHorizonRefused
from pipeline.dialects.raw_json import decode_json
from pipeline.errors import InvalidSignatureError, Refused
from pipeline.gateway import oauth_tokens
from pipeline.gateway.auth import API_KEY_TTL_S, MAX_CACHED_API_KEYS, api_key_of
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import OWNER_SCOPE_KEY, read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.signing import Signer
from pipeline.runtime.ttl_cache import TTLCache
from topics.ids import owner_uuid

BODY_MAX_BYTES: Final = 16_384
GRANT_ERROR_NAMES: Final = {
    106: "AUTHENTICATION_EXCEPTION",
    119: "REFRESH_TOKEN_UNKNOWN_EXCEPTION",
    120: "REFRESH_TOKEN_EXPIRED_EXCEPTION",
}
"""The service's codes for grants that are refused -> names."""
_FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"


class OAuthTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 6749's parameters, as JSON (the SDK) or as a form (the standard)."""

    grant_type: str
    username: str = ""
    password: str = ""
    refresh_token: str = ""


class OAuthTokenResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the standard's word
    expires_in: int = oauth_tokens.TOKEN_TTL_S["access"]
    user_id: str
    application_id: str = "mailfold"


class ExtraHorizonError(msgspec.Struct, frozen=True, kw_only=True):
    """What Extra Horizon says beside the standard's error; the SDK makes it the error's `exhError`."""

    code: int
    name: str
    description: str


class OAuthErrorResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 6749 §5.2, with the SDK's own names for it."""

    error: str
    error_description: str
    description: str
    exh_error: ExtraHorizonError | None = None
    code: int | None = None
    """By which the SDK knows errors that are none of the standard's."""
    name: str | None = None


class GrantRefused(Exception):
    """No tokens are given; ``code``: what the service itself calls the reason, 0 for nothing."""

    def __init__(self, error: str, why: str, code: int = 0) -> None:
        super().__init__(why)
        self._error = error
        self._code = code

    def to_response(self) -> OAuthErrorResponse:
        """Return what the client is told."""
        why = str(self)
        known = (
            ExtraHorizonError(code=self._code, name=GRANT_ERROR_NAMES[self._code], description=why)
            if self._code
            else None
        )
        return OAuthErrorResponse(error=self._error, error_description=why, description=why, exh_error=known)


OPENAPI_TYPES: Final = (OAuthTokenRequest, OAuthTokenResponse, OAuthErrorResponse)
_decode_token_request: Final = msgspec.json.Decoder(OAuthTokenRequest).decode
_NO_STORE_HEADERS: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def encode_error(status: int, error: str, _where: str) -> bytes:
    """Return an error as OAuth's clients expect it; what a repeat may heal has the mail service's code beside."""
    if status < 500 and status not in (408, 429):
        return msgspec.json.encode(
            OAuthErrorResponse(error="invalid_request", error_description=error, description=error)
        )
    code = 1 if status == 500 else 4
    word = "server_error" if status == 500 else "temporarily_unavailable"
    told = OAuthErrorResponse(
        error=word, error_description=error, description=error, code=code, name=ERROR_CODES[code][1]
    )
    return msgspec.json.encode(told)


def router(world: GatewayState) -> APIRouter:
    """The tokens' surface."""
    routes = APIRouter(tags=["Extra Horizon"])
    callers = OAuthAuthenticator(world)

    @routes.post("/auth/v2/oauth2/tokens", summary="Get tokens for an API key", **_described())
    async def tokens(request: Request) -> Response:
        """Grant `password`: the password is the API key. Grant `refresh_token`: another hour."""
        asked = _read(await read_body(request, BODY_MAX_BYTES), request.headers.get("content-type", ""))
        try:
            return _json(await callers.grant(asked), 200)
        except GrantRefused as refused:
            return _json(refused.to_response(), 400)

    return routes


class OAuthAuthenticator:
    """Who calls, by a key or by a token that stands for one."""

    def __init__(self, world: GatewayState) -> None:
        self._pool = world.runtime.pool
        self._clock = world.runtime.clock
        self._by_key = world.authenticate
        self._signer = Signer(world.runtime.settings.secret.get_secret_value(), "access")
        self._known: TTLCache[bytes, Tenant | None] = TTLCache(API_KEY_TTL_S, MAX_CACHED_API_KEYS)

    async def tenant(self, request: Request) -> Tenant:
        """The caller's tenant. Raises Trouble: 104, 117 (unknown) or 118 (expired), upon which the SDK refreshes."""
        key = api_key_of(request)
        if not key:
            raise ExtraHorizonRefused(
                104, "no access token and no API key: send one as Authorization: Bearer, or X-Api-Key"
            )
        if not key.startswith(oauth_tokens.TOKEN_PREFIX):
            return await self._tenant_of_key(request)
        try:
            tenant = await self._tenant(oauth_tokens.verify_oauth_token(self._signer, "access", key, self._clock()))
        except oauth_tokens.ExpiredToken:
            raise ExtraHorizonRefused(118, "the access token is expired") from None
        except InvalidSignatureError:
            tenant = None
        if tenant is None:
            raise ExtraHorizonRefused(117, "the access token is unknown, or its API key is revoked")
        CURRENT_CALLER.set(tenant.tenant)
        request.scope[OWNER_SCOPE_KEY] = f"tenant {tenant.tenant}"
        return tenant

    async def grant(self, asked: OAuthTokenRequest) -> OAuthTokenResponse:
        """New tokens. Raises GrantRefused."""
        if asked.grant_type == "password":
            key_hash, unknown = admin.key_hash(asked.password), 106
        elif asked.grant_type == "refresh_token":
            key_hash, unknown = self._refreshed(asked.refresh_token), 119
        else:
            raise GrantRefused("unsupported_grant_type", "only password (an API key) and refresh_token")
        tenant = await self._tenant(key_hash)
        if tenant is None:
            raise GrantRefused("invalid_grant", "the password must be an API key that is in force", unknown)
        tokens = {
            kind: oauth_tokens.issue_token(self._signer, kind, key_hash, self._clock())
            for kind in oauth_tokens.TOKEN_TTL_S
        }
        user = owner_uuid(tenant.tenant)
        return OAuthTokenResponse(access_token=tokens["access"], refresh_token=tokens["refresh"], user_id=user)

    def _refreshed(self, token: str) -> bytes:
        """Return the hash of the key that a refresh token stands for. Raises GrantRefused."""
        try:
            return oauth_tokens.verify_oauth_token(self._signer, "refresh", token, self._clock())
        except oauth_tokens.ExpiredToken:
            raise GrantRefused("invalid_grant", "the refresh token is expired", 120) from None
        except InvalidSignatureError as error:
            raise GrantRefused("invalid_grant", str(error), 119) from None

    async def _tenant(self, key_hash: bytes) -> Tenant | None:
        return await self._known.get(key_hash, lambda hashed: admin.tenant_of_hash(self._pool, hashed))

    async def _tenant_of_key(self, request: Request) -> Tenant:
        try:
            return await self._by_key(request)
        except HttpProblem as problem:
            raise ExtraHorizonRefused(117, problem.error) from None


def _read(body: bytes, media: str) -> OAuthTokenRequest:
    if media.partition(";")[0].strip().lower() != _FORM_MEDIA_TYPE:
        return decode_json(_decode_token_request, body)
    try:
        return msgspec.convert(dict(parse_qsl(body.decode(), max_num_fields=20)), OAuthTokenRequest)
    except (ValueError, msgspec.ValidationError) as error:
        raise Refused(f"not a form that can be read: {error}", "body") from None


def _json(value: Any, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, headers=_NO_STORE_HEADERS, media_type="application/json")


def _described() -> dict[str, Any]:
    def media(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    error = {"description": "No tokens, and why.", "content": media("OAuthErrorResponse")}
    return {
        "response_class": Response,
        "openapi_extra": {"requestBody": {"required": True, "content": media("OAuthTokenRequest")}},
        "responses": {
            200: {"description": "Tokens.", "content": media("OAuthTokenResponse")},
            400: error,
            413: error,
            503: error,
        },
    }
