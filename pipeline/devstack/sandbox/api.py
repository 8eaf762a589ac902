"""The sandbox's HTTP side: messages as JSON and as pages; started by :mod:`pipeline.devstack.sandbox.server`."""

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
from pipeline.runtime.web.mail_frame import MAIL_CSP

PROVIDER_KEY: Final = web.AppKey("provider", SandboxProvider)
HINTS_KEY: Final = web.AppKey("hints", pages.InboxHints)
DEFAULT_MESSAGE_LIMIT: Final = 100
INBOX_PAGE_MESSAGES: Final = 50
MAX_MESSAGE_NUMBER: Final = 10**15
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})

_PAGE_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class InvalidSandboxRequest(web.HTTPBadRequest):
    """An answer 400 whose JSON says what is wrong and where."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(text=json.dumps({"error": what, "where": where}), content_type="application/json")


def application(provider: SandboxProvider, hints: pages.InboxHints, *, loopback: bool) -> web.Application:
    """Return the HTTP application.

    With ``loopback`` it answers requests for loopback names only, so that a web page whose own name was
    rebound to 127.0.0.1 can't read the inbox.
    """
    app = web.Application(middlewares=[_loopback_names] if loopback else [], client_max_size=1_000_000)
    app[PROVIDER_KEY] = provider
    app[HINTS_KEY] = hints
    app.add_routes(
        [
            web.get("/", inbox),
            web.get("/inbox/{number:[0-9]{1,15}}", inbox_message),
            web.get("/inbox/{number:[0-9]{1,15}}/html", inbox_message_html),
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
    """Return that the sandbox is alive, and its counts so far."""
    provider = request.app[PROVIDER_KEY]
    counts = provider.webhook_sender.counts
    return web.json_response(
        {
            "status": "ok",
            "received": provider.mailbox.received,
            "pending": provider.webhook_sender.pending,
            "events_posted": counts.posted,
            "forged_refused": counts.forged_refused,
            "events_given_up": counts.given_up,
            "webhook_requests": counts.attempts,
        }
    )


async def messages(request: web.Request) -> web.Response:
    """Return the newest messages.

    Query: ``to``, an exact address; ``limit``, how many (100); ``after``, a message's number.
    """
    to = request.query.get("to")
    limit = _number(request, "limit", DEFAULT_MESSAGE_LIMIT)
    after = _number(request, "after", 0)
    matching = [
        as_json(message)
        for message in request.app[PROVIDER_KEY].mailbox.newest()
        if message.number > after and (to is None or to in message.recipients)
    ]
    return web.json_response(matching[:limit])


async def message(request: web.Request) -> web.Response:
    """Return one message as JSON."""
    return web.json_response(as_json(_requested_message(request)))


async def raw_message(request: web.Request) -> web.Response:
    """Return one message byte for byte as it was received."""
    headers = {"X-Content-Type-Options": "nosniff"}
    return web.Response(body=_requested_message(request).raw, content_type="message/rfc822", headers=headers)


async def delete_messages(request: web.Request) -> web.Response:
    """Delete all messages; events that are planned for them are still posted."""
    return web.json_response({"deleted": request.app[PROVIDER_KEY].mailbox.clear()})


async def post_event(request: web.Request) -> web.Response:
    """Send an event for a kept message at once.

    Body: ``{"message": 1, "event": "bounce"}``; optionally ``recipient``, and ``fields`` that replace the event's own.
    """
    # A web page of another origin may send JSON only after a CORS request, which nothing here answers.
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type: application/json, please")
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise InvalidSandboxRequest("", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidSandboxRequest("", "an object is wanted")
    provider = request.app[PROVIDER_KEY]
    message, recipient, event, fields = _parse_event_request(provider, body)
    return web.json_response(provider.send_event(message, recipient, event, fields), status=202)


def _parse_event_request(
    provider: SandboxProvider, body: dict[str, Any]
) -> tuple[SandboxMessage, str, str, dict[str, Any]]:
    number, event, fields = body.get("message"), body.get("event"), body.get("fields", {})
    message = provider.mailbox.get(number) if isinstance(number, int) else None
    if message is None:
        raise InvalidSandboxRequest("message", "there is no such message here")
    recipient = body.get("recipient", message.recipients[0])
    if recipient not in message.recipients:
        raise InvalidSandboxRequest("recipient", "not a recipient of this message")
    if not isinstance(event, str) or event not in EVENT_FIELDS:
        raise InvalidSandboxRequest("event", f"one of {', '.join(EVENT_FIELDS)}")
    if not isinstance(fields, dict):
        raise InvalidSandboxRequest("fields", "an object is wanted")
    return message, recipient, event, fields


async def inbox(request: web.Request) -> web.Response:
    """Return the page that lists messages; ``?before=`` a message's number continues a list."""
    before = _number(request, "before", MAX_MESSAGE_NUMBER)
    mailbox = request.app[PROVIDER_KEY].mailbox
    listed, has_older = mailbox.page(before, INBOX_PAGE_MESSAGES)
    view = pages.InboxView(listed, mailbox.count, "before" not in request.query, has_older)
    return _page(pages.inbox(view, request.app[HINTS_KEY]), pages.PAGE_CSP)


async def inbox_message(request: web.Request) -> web.Response:
    """Return the page of one message."""
    message, mailbox = _requested_message(request), request.app[PROVIDER_KEY].mailbox
    beside = ((message.number + 1, "Newer message"), (message.number - 1, "Older message"))
    neighbours = [(f"/inbox/{number}", text) for number, text in beside if mailbox.get(number) is not None]
    return _page(pages.message(message, request.host, neighbours), pages.PAGE_CSP)


async def inbox_message_html(request: web.Request) -> web.Response:
    """Return a message's own HTML, for the frame in its page."""
    return _page(pages.mail_document(_requested_message(request)), MAIL_CSP)


def as_json(message: SandboxMessage) -> dict[str, Any]:
    """Return a message in the form of the JSON API."""
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
    content = part.get_payload(decode=True)
    summary = {
        "content_type": part.get_content_type(),
        "filename": part.get_filename(),
        "size": len(content) if isinstance(content, bytes) else 0,
    }
    return {**summary, "text": decoded_text(part)} if part.get_content_maintype() == "text" else summary


def _requested_message(request: web.Request) -> SandboxMessage:
    message = request.app[PROVIDER_KEY].mailbox.get(int(request.match_info["number"]))
    if message is None:
        raise web.HTTPNotFound(text="there is no such message here; the oldest leave when there are too many")
    return message


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidSandboxRequest(name, "a whole number is wanted")
    return int(text)


def _page(html: str, csp: str) -> web.Response:
    # A sender's bytes may have become halves of surrogate pairs, which UTF-8 can't encode.
    return web.Response(
        body=html.encode("utf-8", "replace"),
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": csp, **_PAGE_HEADERS},
    )
