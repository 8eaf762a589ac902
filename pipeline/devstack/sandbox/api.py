"""The sandbox's inbox over HTTP: what was received, for programs (JSON) and people (a plain page)."""

import json
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from pipeline.devstack.sandbox import pages
from pipeline.devstack.sandbox.event_plan import EVENT_FIELDS
from pipeline.devstack.sandbox.mailbox import SandboxMessage, decoded_text
from pipeline.devstack.sandbox.provider import SandboxProvider

PROVIDER_KEY: Final = web.AppKey("provider", SandboxProvider)
DEFAULT_MESSAGE_LIMIT: Final = 100
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_CSP: Final = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"


class InvalidSandboxRequest(web.HTTPBadRequest):
    """A 400 that says in JSON what is wrong and where."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(text=json.dumps({"error": what, "where": where}), content_type="application/json")


def application(provider: SandboxProvider, *, loopback: bool) -> web.Application:
    """The whole HTTP surface.

    On loopback it answers to loopback names only: a web page that rebinds its own name to
    127.0.0.1 must not read the inbox.
    """
    app = web.Application(middlewares=[_loopback_names] if loopback else [], client_max_size=1_000_000)
    app[PROVIDER_KEY] = provider
    app.add_routes(
        [
            web.get("/", inbox),
            web.get("/inbox/{number:[0-9]{1,15}}", inbox_message),
            web.get("/messages", messages),
            web.delete("/messages", delete_messages),
            web.get("/messages/{number:[0-9]{1,15}}", message),
            web.get("/messages/{number:[0-9]{1,15}}/raw", raw_message),
            web.post("/events", post_event),
            web.get("/healthz", healthz),
        ]
    )
    return app


@web.middleware
async def _loopback_names(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if urlsplit(f"//{request.host}").hostname not in LOOPBACK_NAMES:
        raise web.HTTPForbidden(text="this sandbox listens on loopback and answers to loopback names only")
    return await handler(request)


async def healthz(request: web.Request) -> web.Response:
    """Alive, and what it did so far."""
    provider = request.app[PROVIDER_KEY]
    tally = provider.webhook_sender.counts
    return web.json_response(
        {
            "status": "ok",
            "received": provider.mailbox.received,
            "pending": provider.webhook_sender.pending,
            "events_posted": tally.posted,
            "forged_refused": tally.forged_refused,
            "events_given_up": tally.given_up,
            "webhook_requests": tally.attempts,
        }
    )


async def messages(request: web.Request) -> web.Response:
    """The newest messages: ``?to=`` an exact address, ``?limit=`` how many (100), ``?after=`` a message's number."""
    to, limit, after = (
        request.query.get("to"),
        _number(request, "limit", DEFAULT_MESSAGE_LIMIT),
        _number(request, "after", 0),
    )
    found = [
        as_json(message)
        for message in request.app[PROVIDER_KEY].mailbox.newest()
        if message.number > after and (to is None or to in message.recipients)
    ]
    return web.json_response(found[:limit])


async def message(request: web.Request) -> web.Response:
    """One message."""
    return web.json_response(as_json(_find(request)))


async def raw_message(request: web.Request) -> web.Response:
    """One message as it came, byte for byte."""
    return web.Response(body=_find(request).raw, content_type="message/rfc822")


async def delete_messages(request: web.Request) -> web.Response:
    """Forget all messages; their stories go on."""
    return web.json_response({"deleted": request.app[PROVIDER_KEY].mailbox.clear()})


async def post_event(request: web.Request) -> web.Response:
    """Send an event for a kept message now.

    ``{"message": 1, "event": "bounce"}``; optionally ``recipient``, and ``fields`` to put over the event's own.
    """
    # Only JSON by name: then a foreign web page has to ask first (CORS), and nobody says yes.
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type: application/json, please")
    try:
        wish = await request.json()
    except ValueError:
        raise InvalidSandboxRequest("", "the body is not JSON") from None
    if not isinstance(wish, dict):
        raise InvalidSandboxRequest("", "an object is wanted")
    provider = request.app[PROVIDER_KEY]
    found, recipient, name, fields = _understood(provider, wish)
    return web.json_response(provider.send_event(found, recipient, name, fields), status=202)


def _understood(provider: SandboxProvider, wish: dict[str, Any]) -> tuple[SandboxMessage, str, str, dict[str, Any]]:
    number, name, fields = wish.get("message"), wish.get("event"), wish.get("fields", {})
    found = provider.mailbox.get(number) if isinstance(number, int) else None
    if found is None:
        raise InvalidSandboxRequest("message", "there is no such message here")
    recipient = wish.get("recipient", found.recipients[0])
    if recipient not in found.recipients:
        raise InvalidSandboxRequest("recipient", "not a recipient of this message")
    if not isinstance(name, str) or name not in EVENT_FIELDS:
        raise InvalidSandboxRequest("event", f"one of {', '.join(EVENT_FIELDS)}")
    if not isinstance(fields, dict):
        raise InvalidSandboxRequest("fields", "an object is wanted")
    return found, recipient, name, fields


async def inbox(request: web.Request) -> web.Response:
    """The inbox, for people."""
    return _page(pages.inbox(list(request.app[PROVIDER_KEY].mailbox.newest())[:DEFAULT_MESSAGE_LIMIT]))


async def inbox_message(request: web.Request) -> web.Response:
    """One message, for people."""
    return _page(pages.message(_find(request)))


def as_json(message: SandboxMessage) -> dict[str, Any]:
    """A message as the API shows it."""
    return {
        "number": message.number,
        "queue_id": message.queue_id,
        "received_at": message.received_at,
        "envelope": {"from": message.mail_from, "to": list(message.recipients), "tls": message.tls},
        "headers": message.headers(),
        "parts": [_part(part) for part in message.parts()],
        "told": message.event_history,
        "size": len(message.raw),
    }


def _part(part: EmailMessage) -> dict[str, Any]:
    body = part.get_payload(decode=True)
    shown = {
        "content_type": part.get_content_type(),
        "filename": part.get_filename(),
        "size": len(body) if isinstance(body, bytes) else 0,
    }
    return {**shown, "text": decoded_text(part)} if part.get_content_maintype() == "text" else shown


def _find(request: web.Request) -> SandboxMessage:
    found = request.app[PROVIDER_KEY].mailbox.get(int(request.match_info["number"]))
    if found is None:
        raise web.HTTPNotFound(text="there is no such message here; the oldest leave when there are too many")
    return found


def _number(request: web.Request, name: str, default: int) -> int:
    given = request.query.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) <= 15):
        raise InvalidSandboxRequest(name, "a whole number is wanted")
    return int(given)


def _page(html: str) -> web.Response:
    return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": _CSP})
