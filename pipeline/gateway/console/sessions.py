"""Sign people in to the console, and find out who sends a request.

A session is made of an API key and carries its rights: it is looked up, together with the key, at every request. The
cookie has 256 random bits; the database has only its hash. The token that every change must bring with it is made from
the cookie, so that it is worth nothing without it and needs no storage.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request, Response

from pipeline.admin import ApiKey, KeyScope
from pipeline.admin.console_sessions import (
    SESSION_LIFETIME,
    add_console_session,
    end_console_session,
    end_console_sessions_of_key,
    find_console_sessions,
)
from pipeline.gateway.auth import ApiKeyAuthenticator
from pipeline.gateway.client_info import ClientInfoReader
from pipeline.gateway.key_lookup import SlowedLookup
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.route_scopes import SESSION_ROUTES
from pipeline.runtime.postgres.database import Pool

SESSION_COOKIE: Final = "mailfold-console"
SIGN_IN_COOKIE: Final = "mailfold-sign-in"
"""Proves that a sign-in comes from our own form; it is never a session."""
SIGN_IN_COOKIE_AGE_S: Final = 3600
COOKIE_MAX_CHARS: Final = 100
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-forwarded-proto")
_TOKEN_CONTEXT: Final = b"mailfold console form\0"


class SignInRequired(Exception):
    """The request has no session, or one that has ended."""


@dataclass(frozen=True)
class Viewer:
    """A person who looks at a page: the key of the session, and the token of its forms."""

    key: ApiKey
    session_hash: bytes
    form_token: str

    @property
    def tenant(self) -> str:
        """Return the tenant whose data are shown."""
        return self.key.tenant.tenant

    @property
    def actor(self) -> str:
        """Return how decisions of this session name who made them."""
        return f"console {self.key.name}"

    @property
    def masks_addresses(self) -> bool:
        """Return whether addresses are masked."""
        return not self.can("history:addresses")

    def can(self, *scopes: str) -> bool:
        """Return whether the key has all these scopes."""
        return not self.key.missing_scopes([KeyScope(scope) for scope in scopes])


class ConsoleSessions:
    """Opens, finds and ends sessions; as a FastAPI dependency it returns a request's viewer."""

    def __init__(
        self,
        pool: Pool,
        authenticate: ApiKeyAuthenticator,
        client_info: ClientInfoReader,
        count_slowed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._authenticate = authenticate
        self._client_info = client_info
        self._lookup = SlowedLookup(self._find, count_slowed)

    async def __call__(self, request: Request) -> Viewer:
        """Return who sends the request. Raise SignInRequired, and HttpProblem 403 where the key lacks a scope."""
        cookie = read_cookie(request, SESSION_COOKIE)
        if not cookie:
            raise SignInRequired
        session_hash = _hash(cookie)
        hashed = await self._lookup.find(session_hash, self._client_info.site(request.scope))
        key = None if hashed is None else await self._authenticate.find_by_hash(request, hashed)
        if key is None:
            raise SignInRequired
        needed = SESSION_ROUTES[request.method, request.scope["route"].path]
        await self._authenticate.admit_scopes(request, key, needed)
        return Viewer(key, session_hash, form_token(cookie))

    async def sign_in(self, request: Request, text: str) -> tuple[ApiKey, str] | None:
        """Return the key and the cookie of a new session; None for a key that is not in force. Raise HttpProblem."""
        key = await self._authenticate.find_by_text(request, text)
        if key is None:
            return None
        await self._authenticate.admit_scopes(request, key, ())
        await self.sign_out(request)
        cookie = new_cookie()
        await add_console_session(self._pool, _hash(cookie), key.key_hash)
        return key, cookie

    async def sign_out(self, request: Request) -> None:
        """End the session of a request, if it has one."""
        if cookie := read_cookie(request, SESSION_COOKIE):
            await end_console_session(self._pool, _hash(cookie))

    async def sign_out_everywhere(self, viewer: Viewer) -> int:
        """End all sessions of the viewer's key and return their number."""
        return await end_console_sessions_of_key(self._pool, viewer.key.key_hash)

    async def _find(self, session_hashes: set[bytes]) -> dict[bytes, bytes]:
        """Return the hashes of the sessions' keys. Never cached: a session ends in all gateways at once."""
        return await find_console_sessions(self._pool, session_hashes)


def new_cookie() -> str:
    """Return a new random cookie."""
    return secrets.token_urlsafe(32)


def form_token(cookie: str) -> str:
    """Return the token that forms carry which are sent with this cookie."""
    return hmac.new(cookie.encode("utf-8", "replace"), _TOKEN_CONTEXT, hashlib.sha256).hexdigest()


def require_form_token(cookie: str, token: str) -> None:
    """Raise HttpProblem 403 unless the token of a form belongs to this cookie."""
    if not cookie or not hmac.compare_digest(form_token(cookie).encode(), token.encode("utf-8", "replace")):
        raise HttpProblem(403, "this form is from another session; load the page again, and send it once more")


def require_own_page(request: Request) -> None:
    """Raise HttpProblem 403 if the browser says that another site's page sent the request.

    `Origin` is "null" for our own forms, because our pages send no referrer.
    """
    fetch_site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "null")
    if fetch_site:
        is_own = fetch_site in ("same-origin", "none")
    else:
        is_own = origin == "null" or urlsplit(origin).netloc == request.headers.get("host")
    if not is_own:
        raise HttpProblem(403, "this request comes from a page of another site")


def read_cookie(request: Request, name: str) -> str:
    """Return a cookie's value; empty if there is none that could be ours."""
    value = request.cookies.get(_full_name(request, name), "")
    return value if len(value) <= COOKIE_MAX_CHARS else ""


def set_cookie(request: Request, response: Response, name: str, value: str, max_age_s: int | None = None) -> None:
    """Set a cookie that no script can read, that other sites' pages do not send, and that needs TLS off this machine.

    An empty value deletes it.
    """
    age_s = (int(SESSION_LIFETIME.total_seconds()) if max_age_s is None else max_age_s) if value else 0
    response.set_cookie(
        _full_name(request, name),
        value,
        max_age=age_s,
        path="/",
        secure=not is_loopback(request),
        httponly=True,
        samesite="strict",
    )


def is_loopback(request: Request) -> bool:
    """Return whether the browser reaches the console at an address of its own machine, and not through a proxy."""
    if any(name in request.headers for name in _PROXY_HEADERS):
        return False
    host = request.url.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _full_name(request: Request, name: str) -> str:
    """Return a cookie's name; with this prefix no other host of the domain can set it (RFC 6265bis §4.1.3.2)."""
    return name if is_loopback(request) else f"__Host-{name}"


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()
