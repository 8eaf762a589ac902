"""A pixel's or link's token -> the answer its reader expects, and behind it an open or click on the log.

Plain ASGI in front of the application, whose price per request is several times that of the
picture. The pixel and the trap answer before anything of their token is looked at: forged, old
and good ones take the same road. A link is read first, because only its token says where it leads.
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
    """An answer, made once."""

    start: Message
    body: Message

    @classmethod
    def of(cls, status: int, body: bytes, media_type: str, **more: str) -> "PreparedResponse":
        """With every header it has."""
        own = {"Content-Type": media_type, "Content-Length": str(len(body))}
        given = {name.replace("_", "-"): value for name, value in more.items()}
        start = {"type": "http.response.start", "status": status, "headers": asgi_headers(*_HEADERS, own, given)}
        return cls(start, {"type": "http.response.body", "body": body} if body else _EMPTY_BODY)


def _problem(status: int, error: str, where: str, **more: str) -> PreparedResponse:
    return PreparedResponse.of(
        status, msgspec.json.encode({"error": error, "where": where}), "application/json", **more
    )


_PIXEL_RESPONSE: Final = PreparedResponse.of(200, PIXEL_GIF, "image/gif")
_TRAP_RESPONSE: Final = PreparedResponse.of(
    200, TRAP_PAGE, "text/html; charset=utf-8", Content_Security_Policy=TRAP_CSP
)
_UNKNOWN_LINK_RESPONSE: Final = _problem(404, "no such link", "/c/…")
_WRONG_METHOD_RESPONSE: Final = _problem(405, "Method Not Allowed", "only GET and HEAD", Allow="GET, HEAD")

TrackingRoute = Callable[[Scope, Send], Awaitable[int]]
"""Answers, notes, and says the answer's status."""


class TrackingMiddleware:
    """`/o/{token}.gif`, `/c/{token}` and `/t/{token}`; everything else goes on to the application."""

    def __init__(self, app: ASGIApp, world: GatewayState) -> None:
        self._app = app
        self._world = world
        roads: dict[str, tuple[str, TrackingRoute]] = {
            "/o/": ("pixel", self._pixel),
            "/c/": ("click", self._click),
            "/t/": ("trap", self._trap),
        }
        self._roads = {
            prefix: (road, surface, world.metrics.request_seconds.labels(surface))
            for prefix, (surface, road) in roads.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        found = self._roads.get(scope["path"][:3]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        road, surface, seconds = found
        if scope["method"] in ("GET", "HEAD"):
            status = await road(scope, send)
        else:
            status = await _answer(send, _WRONG_METHOD_RESPONSE)
        self._world.metrics.requests.labels(surface, status).inc()
        seconds.observe(time.perf_counter() - started)

    # ------------------------------------------------------------------ roads
    async def _pixel(self, scope: Scope, send: Send) -> int:
        """The picture, whatever the token."""
        return await self._blind(scope, send, _PIXEL_RESPONSE, _opened)

    async def _trap(self, scope: Scope, send: Send) -> int:
        """A page that says nothing, whatever the token."""
        return await self._blind(scope, send, _TRAP_RESPONSE, _trapped)

    async def _blind(self, scope: Scope, send: Send, answer: PreparedResponse, read: "TokenReader") -> int:
        status = await _answer(send, answer)
        if scope["method"] == "GET":
            self._note(read, scope)
        return status

    async def _click(self, scope: Scope, send: Send) -> int:
        """The way to the page that was signed, or a 404."""
        try:
            location = _location(tokens.read_click_token(self._world.signer, scope["path"][3:])[2])
        except InvalidSignatureError:
            self._world.metrics.invalid_signatures.labels("click").inc()
            return await _answer(send, _UNKNOWN_LINK_RESPONSE)
        status = await _answer(send, PreparedResponse.of(302, b"", "text/plain", Location=location))
        if scope["method"] == "GET":
            self._note(_clicked, scope)
        return status

    # ------------------------------------------------------------------ notes
    def _note(self, read: "TokenReader", scope: Scope) -> None:
        """What it meant is worked out behind the answers: :mod:`pipeline.gateway.event_buffer`."""
        world, token, caller, now = (
            self._world,
            scope["path"][3:],
            self._world.client_info(scope),
            self._world.runtime.clock(),
        )
        world.event_buffer.put(lambda: _event(world, read, token, caller, now))


TokenReader = Callable[[Any, str], tuple[str, EmailId, str]]
"""A token -> where it was found, which email, and the link's target. Raises Forged."""


def _opened(signer: Any, token: str) -> tuple[str, EmailId, str]:
    return "pixel", tokens.read_pixel_token(signer, token.removesuffix(".gif")), ""


def _trapped(signer: Any, token: str) -> tuple[str, EmailId, str]:
    return "trap", tokens.read_trap_token(signer, token), ""


def _clicked(signer: Any, token: str) -> tuple[str, EmailId, str]:
    email_id, _, url = tokens.read_click_token(signer, token)
    return "click", email_id, url


def _event(world: GatewayState, read: TokenReader, token: str, caller: ClientInfo, now: Millis) -> DeliveryEvent | None:
    try:
        source, email_id, url = read(world.signer, token)
    except InvalidSignatureError:
        world.metrics.invalid_signatures.labels("trap" if read is _trapped else "pixel").inc()
        return None
    kind = EventKind.OPENED if source == "pixel" else EventKind.CLICKED
    if not world.hit_limit.admit(source, email_id, url):
        world.metrics.tracked_over_limit.labels(kind.value).inc()
        return None
    machine = bots.TRAP if source == "trap" else machine_reason(caller)
    world.metrics.tracked.labels(kind.value, machine or "human").inc()
    return DeliveryEvent(
        email_id=email_id,
        event_id=f"{source}:{world.runtime.new_id()}",
        kind=kind,
        occurred_at=now,
        recorded_at=now,
        provider=source,
        machine=machine,
        url=url,
        user_agent=caller.user_agent,
    )


def machine_reason(caller: ClientInfo) -> str:
    """Why who asks is a machine; empty for a human."""
    if caller.is_prefetch:
        return bots.PREFETCH
    return bots.machine_reason(caller.user_agent) or bots.network_reason(caller.address)


async def _answer(send: Send, answer: PreparedResponse) -> int:
    await send(answer.start)
    await send(answer.body)
    status: int = answer.start["status"]
    return status


def _location(url: str) -> str:
    """The target as a header can carry it. Raises Forged for what no link of ours may lead to."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise InvalidSignatureError("not a URL") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        raise InvalidSignatureError("not an http or https URL")
    # What is not ASCII is percent-encoded (RFC 3986), what already is encoded stays; so no header is split.
    return urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
