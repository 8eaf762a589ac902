"""Serve `POST /auth/v2/oauth2/tokens`: issue tokens for API keys, as Extra Horizon's SDK expects it.

The application includes its router, and `/mail/v1` authenticates its requests with `OAuthAuthenticator`. The SDK asks
for a token before its first request: the password is the API key; the user name and the client id may be anything.
An access token lasts an hour and is refreshed by the SDK. It is invalid as soon as its API key is revoked.
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
from pipeline.gateway.auth import API_KEY_TTL_S, MAX_CACHED_API_KEYS, api_key_of, set_tenant
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.secret_ring import secret_ring
from pipeline.runtime.signing import Signer
from pipeline.runtime.ttl_cache import TTLCache
from topics.ids import owner_uuid

BODY_MAX_BYTES: Final = 16_384
GRANT_ERROR_NAMES: Final = {
    106: "AUTHENTICATION_EXCEPTION",
    119: "REFRESH_TOKEN_UNKNOWN_EXCEPTION",
    120: "REFRESH_TOKEN_EXPIRED_EXCEPTION",
}
"""Names of Extra Horizon's errors for refused grants, by code."""
_FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"


class OAuthTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of RFC 6749, as JSON (from the SDK) or as a form (as the standard says)."""

    grant_type: str
    username: str = ""
    password: str = ""
    refresh_token: str = ""


class OAuthTokenResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The issued tokens (RFC 6749 §5.1), with the SDK's own fields."""

    access_token: str
    refresh_token: str
    token_type: str = "bearer"  # noqa: S105 - the standard's name of a token type
    expires_in: int = oauth_tokens.TOKEN_TTL_S["access"]
    user_id: str
    application_id: str = "mailfold"


class ExtraHorizonError(msgspec.Struct, frozen=True, kw_only=True):
    """Extra Horizon's own error beside the standard's one; the SDK shows it as the error's `exhError`."""

    code: int
    name: str
    description: str


class OAuthErrorResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error (RFC 6749 §5.2), with the SDK's own fields."""

    error: str
    error_description: str
    description: str
    exh_error: ExtraHorizonError | None = None
    code: int | None = None
    """Extra Horizon's code of an error that the standard does not define."""
    name: str | None = None


class GrantRefused(Exception):
    """A refused grant: the standard's error, the reason, and Extra Horizon's code for it; 0 if it has none."""

    def __init__(self, error: str, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self._error = error
        self._code = code

    def to_response(self) -> OAuthErrorResponse:
        """Return the response's body."""
        reason = str(self)
        exh_error = (
            ExtraHorizonError(code=self._code, name=GRANT_ERROR_NAMES[self._code], description=reason)
            if self._code
            else None
        )
        return OAuthErrorResponse(error=self._error, error_description=reason, description=reason, exh_error=exh_error)


OPENAPI_TYPES: Final = (OAuthTokenRequest, OAuthTokenResponse, OAuthErrorResponse)
_decode_token_request: Final = msgspec.json.Decoder(OAuthTokenRequest).decode
_NO_STORE_HEADERS: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def encode_error(status: int, error: str, _where: str) -> bytes:
    """Return an error's JSON body as OAuth's clients expect it; errors worth a retry have Extra Horizon's code, too."""
    if status < 500 and status not in (408, 429):
        return msgspec.json.encode(
            OAuthErrorResponse(error="invalid_request", error_description=error, description=error)
        )
    code = 1 if status == 500 else 4
    error_name = "server_error" if status == 500 else "temporarily_unavailable"
    response = OAuthErrorResponse(
        error=error_name, error_description=error, description=error, code=code, name=ERROR_CODES[code][1]
    )
    return msgspec.json.encode(response)


def router(state: GatewayState) -> APIRouter:
    """Return the route that issues tokens."""
    routes = APIRouter(tags=["Extra Horizon"])
    authenticator = OAuthAuthenticator(state)

    @routes.post("/auth/v2/oauth2/tokens", summary="Get tokens for an API key", **_token_openapi())
    async def tokens(request: Request) -> Response:
        """Issue tokens. Grant `password`: the password is the API key. Grant `refresh_token`: renew them."""
        token_request = _parse_request(
            await read_body(request, BODY_MAX_BYTES), request.headers.get("content-type", "")
        )
        try:
            return _json_response(await authenticator.grant(token_request), 200)
        except GrantRefused as refused:
            return _json_response(refused.to_response(), 400)

    return routes


class OAuthAuthenticator:
    """The authenticator of Extra Horizon's API: by API key, or by a token that stands for one."""

    def __init__(self, state: GatewayState) -> None:
        self._pool = state.runtime.pool
        self._clock = state.runtime.clock
        self._authenticate_key = state.authenticate
        self._signer = Signer(secret_ring(state.runtime.settings), "access")
        self._tenants: TTLCache[bytes, Tenant | None] = TTLCache(API_KEY_TTL_S, MAX_CACHED_API_KEYS)

    async def tenant(self, request: Request) -> Tenant:
        """Return the caller's tenant.

        Raises ExtraHorizonRefused with code 104 (no token and no key), 117 (unknown) or 118 (expired: the SDK
        refreshes the token).
        """
        key = api_key_of(request)
        if not key:
            raise ExtraHorizonRefused(
                104, "no access token and no API key: send one as Authorization: Bearer, or X-Api-Key"
            )
        if not key.startswith(oauth_tokens.TOKEN_PREFIX):
            return await self._tenant_of_key(request)
        try:
            tenant = await self._find_tenant(
                oauth_tokens.verify_oauth_token(self._signer, "access", key, self._clock())
            )
        except oauth_tokens.ExpiredToken:
            raise ExtraHorizonRefused(118, "the access token is expired") from None
        except InvalidSignatureError:
            tenant = None
        if tenant is None:
            raise ExtraHorizonRefused(117, "the access token is unknown, or its API key is revoked")
        set_tenant(request, tenant)
        return tenant

    async def grant(self, request: OAuthTokenRequest) -> OAuthTokenResponse:
        """Return new tokens for an API key or a refresh token. Raises GrantRefused."""
        if request.grant_type == "password":
            key_hash, error_code = admin.key_hash(request.password), 106
        elif request.grant_type == "refresh_token":
            key_hash, error_code = self._verify_refresh_token(request.refresh_token), 119
        else:
            raise GrantRefused("unsupported_grant_type", "only password (an API key) and refresh_token")
        tenant = await self._find_tenant(key_hash)
        if tenant is None:
            raise GrantRefused("invalid_grant", "the password must be an API key that is in force", error_code)
        tokens = {
            kind: oauth_tokens.issue_token(self._signer, kind, key_hash, self._clock())
            for kind in oauth_tokens.TOKEN_TTL_S
        }
        user = owner_uuid(tenant.tenant)
        return OAuthTokenResponse(access_token=tokens["access"], refresh_token=tokens["refresh"], user_id=user)

    def _verify_refresh_token(self, token: str) -> bytes:
        """Return the hash of the key that a refresh token stands for. Raises GrantRefused."""
        try:
            return oauth_tokens.verify_oauth_token(self._signer, "refresh", token, self._clock())
        except oauth_tokens.ExpiredToken:
            raise GrantRefused("invalid_grant", "the refresh token is expired", 120) from None
        except InvalidSignatureError as error:
            raise GrantRefused("invalid_grant", str(error), 119) from None

    async def _find_tenant(self, key_hash: bytes) -> Tenant | None:
        return await self._tenants.get(key_hash, lambda hashed: admin.tenant_of_hash(self._pool, hashed))

    async def _tenant_of_key(self, request: Request) -> Tenant:
        try:
            return await self._authenticate_key(request)
        except HttpProblem as problem:
            raise ExtraHorizonRefused(117, problem.error) from None


def _parse_request(body: bytes, content_type: str) -> OAuthTokenRequest:
    if content_type.partition(";")[0].strip().lower() != _FORM_MEDIA_TYPE:
        return decode_json(_decode_token_request, body)
    try:
        return msgspec.convert(dict(parse_qsl(body.decode(), max_num_fields=20)), OAuthTokenRequest)
    except (ValueError, msgspec.ValidationError) as error:
        raise Refused(f"not a form that can be read: {error}", "body") from None


def _json_response(value: Any, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, headers=_NO_STORE_HEADERS, media_type="application/json")


def _token_openapi() -> dict[str, Any]:
    def media(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    error = {"description": "No tokens were issued; the error says why.", "content": media("OAuthErrorResponse")}
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
