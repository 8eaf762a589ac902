"""Answer tracking pixels, tracked links and hidden links, then record opens and clicks.

The middleware wraps the application as plain ASGI, because the framework costs several times as much per request as
the picture itself. Pixels and hidden links are answered before their token is read, so the response does not reveal
if the token is valid. The token of a tracked link is read first, because it holds the link's target.
"""

import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.content import tokens
from pipeline.errors import InvalidSignatureError
from pipeline.gateway.client_info import ClientInfo
from pipeline.gateway.headers import NO_STORE_HEADERS, SECURITY_HEADERS, asgi_headers
from pipeline.gateway.html import TRAP_CSP, TRAP_PAGE
from pipeline.gateway.state import GatewayState
from pipeline.webhooks import bots
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId, Millis

PIXEL_GIF: Final = bytes.fromhex(
    "47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b"
)
"""1×1, transparent, 43 bytes."""

_HEADERS: Final = (SECURITY_HEADERS, NO_STORE_HEADERS)
_EMPTY_BODY: Final[Message] = {"type": "http.response.body", "body": b""}


class PreparedResponse(msgspec.Struct, frozen=True):
    """A response that is made once and sent many times."""

    start: Message
    body: Message

    @classmethod
    def of(cls, status: int, body: bytes, media_type: str, **more_headers: str) -> "PreparedResponse":
        """Return a response with these headers, in which `_` stands for `-`, and those that every response has."""
        content_headers = {"Content-Type": media_type, "Content-Length": str(len(body))}
        extra_headers = {name.replace("_", "-"): value for name, value in more_headers.items()}
        headers = asgi_headers(*_HEADERS, content_headers, extra_headers)
        start = {"type": "http.response.start", "status": status, "headers": headers}
        return cls(start, {"type": "http.response.body", "body": body} if body else _EMPTY_BODY)


def _problem(status: int, error: str, where: str, **more_headers: str) -> PreparedResponse:
    return PreparedResponse.of(
        status, msgspec.json.encode({"error": error, "where": where}), "application/json", **more_headers
    )


_PIXEL_RESPONSE: Final = PreparedResponse.of(200, PIXEL_GIF, "image/gif")
_TRAP_RESPONSE: Final = PreparedResponse.of(
    200, TRAP_PAGE, "text/html; charset=utf-8", Content_Security_Policy=TRAP_CSP
)
_UNKNOWN_LINK_RESPONSE: Final = _problem(404, "no such link", "/c/…")
_WRONG_METHOD_RESPONSE: Final = _problem(405, "Method Not Allowed", "only GET and HEAD", Allow="GET, HEAD")

TrackingRoute = Callable[[Scope, Send], Awaitable[int]]
"""A function that sends the response, records the event and returns the response's status."""


class TrackingMiddleware:
    """The middleware that serves `/o/{token}.gif`, `/c/{token}` and `/t/{token}`, and passes on all other requests."""

    def __init__(self, app: ASGIApp, state: GatewayState) -> None:
        self._app = app
        self._state = state
        routes: dict[str, tuple[str, TrackingRoute]] = {
            "/o/": ("pixel", self._pixel),
            "/c/": ("click", self._click),
            "/t/": ("trap", self._trap),
        }
        self._routes = {
            prefix: (route, surface, state.metrics.request_seconds.labels(surface))
            for prefix, (surface, route) in routes.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification says."""
        matched = self._routes.get(scope["path"][:3]) if scope["type"] == "http" else None
        if matched is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        route, surface, request_seconds = matched
        if scope["method"] in ("GET", "HEAD"):
            status = await route(scope, send)
        else:
            status = await _send_response(send, _WRONG_METHOD_RESPONSE)
        self._state.metrics.requests.labels(surface, status).inc()
        request_seconds.observe(time.perf_counter() - started)

    # ------------------------------------------------------------------ routes
    async def _pixel(self, scope: Scope, send: Send) -> int:
        """Answer with the picture, also to an invalid token."""
        return await self._answer_first(scope, send, _PIXEL_RESPONSE, _read_pixel)

    async def _trap(self, scope: Scope, send: Send) -> int:
        """Answer with the page for hidden links, also to an invalid token."""
        return await self._answer_first(scope, send, _TRAP_RESPONSE, _read_trap)

    async def _answer_first(self, scope: Scope, send: Send, response: PreparedResponse, read: "TokenReader") -> int:
        """Send the response, then record the event without having read the token."""
        status = await _send_response(send, response)
        if scope["method"] == "GET":
            self._record(read, scope)
        return status

    async def _click(self, scope: Scope, send: Send) -> int:
        """Redirect to the link's signed target, or answer 404."""
        try:
            location = _redirect_target(tokens.read_click_token(self._state.signer, scope["path"][3:])[2])
        except InvalidSignatureError:
            self._state.metrics.invalid_signatures.labels("click").inc()
            return await _send_response(send, _UNKNOWN_LINK_RESPONSE)
        status = await _send_response(send, PreparedResponse.of(302, b"", "text/plain", Location=location))
        if scope["method"] == "GET":
            self._record(_read_click, scope)
        return status

    # ------------------------------------------------------------------ events
    def _record(self, read: "TokenReader", scope: Scope) -> None:
        """Let the event buffer read the token and make the event, in the background."""
        state, token = self._state, scope["path"][3:]
        client, now = state.client_info(scope), state.runtime.clock()
        state.event_buffer.put(lambda: _tracking_event(state, read, token, client, now))


TokenReader = Callable[[Any, str], tuple[str, EmailId, str]]
"""A function that returns a token's source, email and link target. Raises InvalidSignatureError."""


def _read_pixel(signer: Any, token: str) -> tuple[str, EmailId, str]:
    return "pixel", tokens.read_pixel_token(signer, token.removesuffix(".gif")), ""


def _read_trap(signer: Any, token: str) -> tuple[str, EmailId, str]:
    return "trap", tokens.read_trap_token(signer, token), ""


def _read_click(signer: Any, token: str) -> tuple[str, EmailId, str]:
    email_id, _, url = tokens.read_click_token(signer, token)
    return "click", email_id, url


def _tracking_event(
    state: GatewayState, read: TokenReader, token: str, client: ClientInfo, now: Millis
) -> DeliveryEvent | None:
    """Return the open or click that a token stands for, or None if it is invalid or over the limit of its email."""
    try:
        source, email_id, url = read(state.signer, token)
    except InvalidSignatureError:
        state.metrics.invalid_signatures.labels("trap" if read is _read_trap else "pixel").inc()
        return None
    kind = EventKind.OPENED if source == "pixel" else EventKind.CLICKED
    if not state.hit_limit.admit(source, email_id, url):
        state.metrics.tracked_over_limit.labels(kind.value).inc()
        return None
    machine = bots.TRAP if source == "trap" else machine_reason(client)
    state.metrics.tracked.labels(kind.value, machine or "human").inc()
    return DeliveryEvent(
        email_id=email_id,
        event_id=f"{source}:{state.runtime.new_id()}",
        kind=kind,
        occurred_at=now,
        recorded_at=now,
        provider=source,
        machine=machine,
        url=url,
        user_agent=client.user_agent,
    )


def machine_reason(client: ClientInfo) -> str:
    """Return why the client is taken for a machine; empty for a human."""
    if client.is_prefetch:
        return bots.PREFETCH
    return bots.machine_reason(client.user_agent) or bots.network_reason(client.address)


async def _send_response(send: Send, response: PreparedResponse) -> int:
    """Send a response and return its status."""
    await send(response.start)
    await send(response.body)
    status: int = response.start["status"]
    return status


def _redirect_target(url: str) -> str:
    """Return a link's target, encoded for a Location header. Raises InvalidSignatureError for a forbidden target."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise InvalidSignatureError("not a URL") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        raise InvalidSignatureError("not an http or https URL")
    # Percent-encode what RFC 3986 forbids, such as line breaks, which would split the header; keep what is encoded.
    return urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
