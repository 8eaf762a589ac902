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
from pipeline.errors import Forged
from pipeline.gateway.client_info import Caller
from pipeline.gateway.headers import NO_STORE, SAFE, raw
from pipeline.gateway.html import TRAP, TRAP_CSP
from pipeline.gateway.state import World
from pipeline.webhooks import bots
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId, Millis

GIF: Final = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
"""1×1, transparent, 43 bytes."""

_HEADERS: Final = (SAFE, NO_STORE)
_NOTHING: Final[Message] = {"type": "http.response.body", "body": b""}


class Answer(msgspec.Struct, frozen=True):
    """An answer, made once."""

    start: Message
    body: Message

    @classmethod
    def of(cls, status: int, body: bytes, media_type: str, **more: str) -> "Answer":
        """With every header it has."""
        own = {"Content-Type": media_type, "Content-Length": str(len(body))}
        given = {name.replace("_", "-"): value for name, value in more.items()}
        start = {"type": "http.response.start", "status": status, "headers": raw(*_HEADERS, own, given)}
        return cls(start, {"type": "http.response.body", "body": body} if body else _NOTHING)


def _problem(status: int, error: str, where: str, **more: str) -> Answer:
    return Answer.of(status, msgspec.json.encode({"error": error, "where": where}), "application/json", **more)


_PIXEL: Final = Answer.of(200, GIF, "image/gif")
_PAGE: Final = Answer.of(200, TRAP, "text/html; charset=utf-8", Content_Security_Policy=TRAP_CSP)
_NO_LINK: Final = _problem(404, "no such link", "/c/…")
_NO_METHOD: Final = _problem(405, "Method Not Allowed", "only GET and HEAD", Allow="GET, HEAD")

Road = Callable[[Scope, Send], Awaitable[int]]
"""Answers, notes, and says the answer's status."""


class Tracking:
    """`/o/{token}.gif`, `/c/{token}` and `/t/{token}`; everything else goes on to the application."""

    def __init__(self, app: ASGIApp, world: World) -> None:
        self._app = app
        self._world = world
        roads: dict[str, tuple[str, Road]] = {
            "/o/": ("pixel", self._pixel),
            "/c/": ("click", self._click),
            "/t/": ("trap", self._trap),
        }
        self._roads = {
            prefix: (road, surface, world.metrics.seconds.labels(surface)) for prefix, (surface, road) in roads.items()
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
            status = await _answer(send, _NO_METHOD)
        self._world.metrics.requests.labels(surface, status).inc()
        seconds.observe(time.perf_counter() - started)

    # ------------------------------------------------------------------ roads
    async def _pixel(self, scope: Scope, send: Send) -> int:
        """The picture, whatever the token."""
        return await self._blind(scope, send, _PIXEL, _opened)

    async def _trap(self, scope: Scope, send: Send) -> int:
        """A page that says nothing, whatever the token."""
        return await self._blind(scope, send, _PAGE, _trapped)

    async def _blind(self, scope: Scope, send: Send, answer: Answer, read: "Read") -> int:
        status = await _answer(send, answer)
        if scope["method"] == "GET":
            self._note(read, scope)
        return status

    async def _click(self, scope: Scope, send: Send) -> int:
        """The way to the page that was signed, or a 404."""
        try:
            location = _location(tokens.read_click_token(self._world.signer, scope["path"][3:])[2])
        except Forged:
            self._world.metrics.forged.labels("click").inc()
            return await _answer(send, _NO_LINK)
        status = await _answer(send, Answer.of(302, b"", "text/plain", Location=location))
        if scope["method"] == "GET":
            self._note(_clicked, scope)
        return status

    # ------------------------------------------------------------------ notes
    def _note(self, read: "Read", scope: Scope) -> None:
        """What it meant is worked out behind the answers: :mod:`pipeline.gateway.event_buffer`."""
        world, token, caller, now = self._world, scope["path"][3:], self._world.callers(scope), self._world.rt.clock()
        world.notes.put(lambda: _event(world, read, token, caller, now))


Read = Callable[[Any, str], tuple[str, EmailId, str]]
"""A token -> where it was found, which email, and the link's target. Raises Forged."""


def _opened(signer: Any, token: str) -> tuple[str, EmailId, str]:
    return "pixel", tokens.read_pixel_token(signer, token.removesuffix(".gif")), ""


def _trapped(signer: Any, token: str) -> tuple[str, EmailId, str]:
    return "trap", tokens.read_trap_token(signer, token), ""


def _clicked(signer: Any, token: str) -> tuple[str, EmailId, str]:
    email_id, _, url = tokens.read_click_token(signer, token)
    return "click", email_id, url


def _event(world: World, read: Read, token: str, caller: Caller, now: Millis) -> DeliveryEvent | None:
    try:
        source, email_id, url = read(world.signer, token)
    except Forged:
        world.metrics.forged.labels("trap" if read is _trapped else "pixel").inc()
        return None
    kind = EventKind.OPENED if source == "pixel" else EventKind.CLICKED
    if not world.hits.allows(source, email_id, url):
        world.metrics.tracked_over_limit.labels(kind.value).inc()
        return None
    machine = bots.TRAP if source == "trap" else machine_reason(caller)
    world.metrics.tracked.labels(kind.value, machine or "human").inc()
    return DeliveryEvent(
        email_id=email_id,
        event_id=f"{source}:{world.rt.new_id()}",
        kind=kind,
        occurred_at=now,
        recorded_at=now,
        provider=source,
        machine=machine,
        url=url,
        user_agent=caller.agent,
    )


def machine_reason(caller: Caller) -> str:
    """Why who asks is a machine; empty for a human."""
    if caller.ahead:
        return bots.PREFETCH
    return bots.machine_reason(caller.agent) or bots.network_reason(caller.address)


async def _answer(send: Send, answer: Answer) -> int:
    await send(answer.start)
    await send(answer.body)
    status: int = answer.start["status"]
    return status


def _location(url: str) -> str:
    """The target as a header can carry it. Raises Forged for what no link of ours may lead to."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise Forged("not a URL") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc:
        raise Forged("not an http or https URL")
    # What is not ASCII is percent-encoded (RFC 3986), what already is encoded stays; so no header is split.
    return urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
