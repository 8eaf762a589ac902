"""Tokens for SASL OAUTHBEARER by the client credentials grant (RFC 6749, 4.4); `security` passes them on.

Every client of a process shares one token. It is fetched again before it expires, so that brokers see no old one.
"""

import asyncio
import base64
import re
import time
from typing import Any, Final
from urllib.parse import quote_plus
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
from aiokafka.abc import AbstractTokenProvider
from pydantic import SecretStr

from pipeline.runtime.http_body import read_bounded
from pipeline.runtime.kafka.security import TokenUnavailable
from pipeline.runtime.observing.logs import get_logger

FETCH_TIMEOUT_S: Final = 10.0
MAX_RESPONSE_BYTES: Final = 65_536
DEFAULT_LIFETIME_S: Final = 60.0
"""Seconds that a token is used whose response does not say when it expires."""
EARLY_REFRESH_SHARE: Final = 0.8
"""The share of a token's lifetime after which it is fetched again; until its end it is used if that fails."""
_BEARER_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,40}")
_log = get_logger("mailfold.kafka")


class TokenResponse(msgspec.Struct, frozen=True):
    """What the token endpoint answers (RFC 6749, 5.1)."""

    access_token: str
    expires_in: float = DEFAULT_LIFETIME_S


class ErrorResponse(msgspec.Struct, frozen=True):
    """What the token endpoint answers to a refused request (RFC 6749, 5.2)."""

    error: str = ""


class OAuthTokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka ships no types
    """Fetches tokens from an OAuth server; may be used by several event loops at once."""

    def __init__(self, url: str, client_id: str, client_secret: SecretStr, scope: str) -> None:
        self._url = url
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._token = ""
        self._refresh_at = self._expires_at = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} client_id={self._client_id}>"

    async def token(self) -> str:
        """Return a token that is valid now. Raise TokenUnavailable."""
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if time.monotonic() >= self._refresh_at:
                await self._refresh()
            return self._token

    async def _refresh(self) -> None:
        requested_at = time.monotonic()
        try:
            response = await self._fetch()
        except TokenUnavailable as error:
            if time.monotonic() >= self._expires_at:
                raise
            _log.warning("token not renewed, using the old one until it expires", error=str(error.args[0]))
            return
        self._token = response.access_token
        self._refresh_at = requested_at + EARLY_REFRESH_SHARE * response.expires_in
        self._expires_at = requested_at + response.expires_in

    async def _fetch(self) -> TokenResponse:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S), self._session() as session, self._request(session) as response:
                body, is_complete = await read_bounded(response, MAX_RESPONSE_BYTES)
        except TimeoutError as error:
            raise TokenUnavailable(f"KAFKA_OAUTH_TOKEN_URL: no answer within {FETCH_TIMEOUT_S:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TokenUnavailable(f"KAFKA_OAUTH_TOKEN_URL: {type(error).__name__}: {error}") from error
        if response.status != 200:
            raise TokenUnavailable(
                f"KAFKA_OAUTH_TOKEN_URL answered {response.status}{_error_code(body)}; check KAFKA_OAUTH_CLIENT_ID, "
                "KAFKA_OAUTH_CLIENT_SECRET and KAFKA_OAUTH_SCOPE"
            )
        return _parse(body, is_complete)

    def _session(self) -> aiohttp.ClientSession:
        """Return a session of its own for each request: they are minutes apart, and loops can't share one."""
        return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, raise_for_status=False)

    def _request(self, session: aiohttp.ClientSession) -> Any:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        # RFC 6749, 2.3.1: both are form-encoded before they are joined.
        login = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret.get_secret_value())}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Accept": "application/json",
        }
        no_limit = aiohttp.ClientTimeout(total=None)
        return session.post(self._url, data=form, headers=headers, allow_redirects=False, timeout=no_limit)


def _parse(body: bytes, is_complete: bool) -> TokenResponse:
    """Return the parsed response. Raise TokenUnavailable, never with a part of the body, which may hold a token."""
    if not is_complete:
        raise TokenUnavailable(f"KAFKA_OAUTH_TOKEN_URL answered with more than {MAX_RESPONSE_BYTES} bytes")
    try:
        response = msgspec.json.decode(body, type=TokenResponse, strict=False)  # some servers write "3600"
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise TokenUnavailable("KAFKA_OAUTH_TOKEN_URL answered without an access_token") from None
    # Anything else could end the token inside the SASL message and add fields of its own.
    if not _BEARER_TOKEN.fullmatch(response.access_token):
        raise TokenUnavailable("KAFKA_OAUTH_TOKEN_URL answered with an access_token that is no bearer token")
    return response


def _error_code(body: bytes) -> str:
    """Return the RFC's error code in parentheses, or nothing where the response has none."""
    try:
        code = msgspec.json.decode(body, type=ErrorResponse).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return f" ({code})" if _ERROR_CODE.fullmatch(code) else ""
