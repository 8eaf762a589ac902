"""Serve `POST /auth/v2/oauth2/tokens`: issue tokens for API keys, as Extra Horizon's SDK expects it.

The application includes its router, and `/mail/v1` authenticates its requests with `OAuthAuthenticator`. The SDK asks
for a token before its first request: the password is the API key; the user name and the client id may be anything.
An access token lasts an hour and is refreshed by the SDK. It stands for its API key: it has the key's scopes and other
limits, as they are at each request, and ends with the key.
"""

from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request, Response

from pipeline.admin import ApiKey, KeyScope
from pipeline.dialects.extrahorizon import ERROR_CODES, ExtraHorizonRefused
from pipeline.dialects.raw_json import decode_json
from pipeline.errors import InvalidSignatureError, Refused
from pipeline.gateway import oauth_tokens
from pipeline.gateway.auth import api_key_of
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
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
    scope: str
    """The scopes of the API key (RFC 6749 §3.3)."""


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
            return _json_response(await authenticator.grant(request, token_request), 200)
        except GrantRefused as refused:
            return _json_response(refused.to_response(), 400)

    return routes


class OAuthAuthenticator:
    """The authenticator of Extra Horizon's API: by API key, or by a token that stands for one."""

    def __init__(self, state: GatewayState) -> None:
        self._clock = state.runtime.clock
        self._authenticate = state.authenticate
        self._signer = Signer(secret_ring(state.runtime.settings), "access")

    async def key_of(self, request: Request) -> ApiKey:
        """Return the caller's API key, which has the scopes that the route needs.

        Raises ExtraHorizonRefused with code 104 (no token and no key), 117 (unknown) or 118 (expired: the SDK
        refreshes the token), HttpProblem 403 for a key that may not do this.
        """
        text = api_key_of(request)
        if not text:
            raise ExtraHorizonRefused(
                104, "no access token and no API key: send one as Authorization: Bearer, or X-Api-Key"
            )
        if text.startswith(oauth_tokens.TOKEN_PREFIX):
            key = await self._key_of_token(request, text)
            unknown = "the access token is unknown, or its API key is revoked or expired"
        else:
            key = await self._authenticate.find_by_text(request, text)
            unknown = "the API key is unknown, revoked or expired"
        if key is None:
            raise ExtraHorizonRefused(117, unknown)
        await self._authenticate.admit(request, key)
        return key

    async def _key_of_token(self, request: Request, token: str) -> ApiKey | None:
        try:
            hashed = oauth_tokens.verify_oauth_token(self._signer, "access", token, self._clock())
        except oauth_tokens.ExpiredToken:
            raise ExtraHorizonRefused(118, "the access token is expired") from None
        except InvalidSignatureError:
            return None
        return await self._authenticate.find_by_hash(request, hashed)

    async def grant(self, request: Request, token_request: OAuthTokenRequest) -> OAuthTokenResponse:
        """Return new tokens for an API key or a refresh token. Raises GrantRefused."""
        if token_request.grant_type == "password":
            key, error_code = await self._authenticate.find_by_text(request, token_request.password), 106
        elif token_request.grant_type == "refresh_token":
            hashed = self._verify_refresh_token(token_request.refresh_token)
            key, error_code = await self._authenticate.find_by_hash(request, hashed), 119
        else:
            raise GrantRefused("unsupported_grant_type", "only password (an API key) and refresh_token")
        if key is None:
            raise GrantRefused("invalid_grant", "the password must be an API key that is in force", error_code)
        try:
            self._authenticate.check_network(request, key)
        except HttpProblem as problem:
            raise GrantRefused("invalid_grant", problem.error, error_code) from None
        return self._issue(key)

    def _issue(self, key: ApiKey) -> OAuthTokenResponse:
        """Return tokens that stand for the key and don't outlive it."""
        now, expires_at = self._clock(), key.limits.expires_at
        ends_at = None if expires_at is None else int(expires_at.timestamp())
        tokens = {
            kind: oauth_tokens.issue_token(self._signer, kind, key.key_hash, now, ends_at)
            for kind in oauth_tokens.TOKEN_TTL_S
        }
        scopes = KeyScope if key.limits.scopes is None else key.limits.scopes
        return OAuthTokenResponse(
            access_token=tokens["access"],
            refresh_token=tokens["refresh"],
            expires_in=oauth_tokens.lifetime_s("access", now, ends_at),
            user_id=owner_uuid(key.tenant.tenant),
            scope=" ".join(sorted(scopes)),
        )

    def _verify_refresh_token(self, token: str) -> bytes:
        """Return the hash of the key that a refresh token stands for. Raises GrantRefused."""
        try:
            return oauth_tokens.verify_oauth_token(self._signer, "refresh", token, self._clock())
        except oauth_tokens.ExpiredToken:
            raise GrantRefused("invalid_grant", "the refresh token is expired", 120) from None
        except InvalidSignatureError as error:
            raise GrantRefused("invalid_grant", str(error), 119) from None


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
