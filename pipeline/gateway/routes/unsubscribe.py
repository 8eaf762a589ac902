"""Serve one-click unsubscribe (RFC 8058) at `/u/{token}`; the application includes its router.

Only the POST unsubscribes, because mail scanners follow every link in an email. The GET returns a page whose button
posts the same field as a mail program. The POST answers 200 once the event is durable on the log.
"""

import email.parser
import email.policy
import urllib.parse
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from pipeline.content import tokens
from pipeline.content.unsubscribe import ONE_CLICK_FIELD
from pipeline.errors import InvalidSignatureError
from pipeline.gateway.headers import NO_STORE_HEADERS, RETRY_SOON
from pipeline.gateway.html import PAGE_CSP, render_page
from pipeline.gateway.request_body import read_raw_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.observing.logs import bind_log_fields
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from topics.events import DeliveryEvent, EventKind
from topics.ids import event_id
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS

BODY_MAX_BYTES: Final = 10_000
CONTENT_TYPE_MAX_CHARS: Final = 300
"""Maximum length of a Content-Type; the parser needs more than linear time for it."""
SOURCE: Final = "unsubscribe"

_CONFIRM_PAGE: Final = render_page(
    "mail",
    "Unsubscribe from these emails?",
    "You will get no more emails from this sender.",
    "Unsubscribe",
)
_DONE_PAGE: Final = render_page("done", "You are unsubscribed", "What is already on its way may still arrive.")
_TRY_AGAIN_PAGE: Final = render_page("lost", "That didn’t work yet", "Please try again in a moment.", "Try again")
_UNCONFIRMED_PAGE: Final = render_page(
    "mail", "Unsubscribe from these emails?", "Please confirm with the button.", "Unsubscribe"
)
_INVALID_LINK_PAGE: Final = render_page(
    "lost",
    "This link doesn’t work",
    "It may have been cut off. Please open it again from the email, or use your mail program’s own unsubscribe button.",
)

_HTML: Final = {"text/html": {"schema": {"type": "string"}}}
_FORM: Final[dict[str, Any]] = {
    "schema": {
        "type": "object",
        "required": [ONE_CLICK_FIELD[0]],
        "properties": {ONE_CLICK_FIELD[0]: {"type": "string", "enum": [ONE_CLICK_FIELD[1]]}},
    }
}
_REQUEST_BODY: Final = {
    "required": True,
    "content": {"application/x-www-form-urlencoded": _FORM, "multipart/form-data": _FORM},
}
_PAGE_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "A page.", "content": _HTML},
    404: {"description": "The token is invalid; a page that says so.", "content": _HTML},
}
_POST_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The unsubscription is durable. A repeated request changes nothing.", "content": _HTML},
    400: {"description": "The body has no `List-Unsubscribe=One-Click`; nothing was changed.", "content": _HTML},
    404: _PAGE_RESPONSES[404],
    413: {"description": f"A body of over {BODY_MAX_BYTES} bytes."},
    503: {"description": "Not confirmed in time; send it again.", "content": _HTML},
}


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/u`."""
    routes = APIRouter(tags=["tracking"])
    signer = Signer(secret_ring(state.runtime.settings), "unsubscribe")

    def read_token(token: str) -> EmailId | None:
        try:
            return tokens.read_unsubscribe_token(signer, token)
        except InvalidSignatureError:
            state.metrics.invalid_signatures.labels(SOURCE).inc()
            return None

    @routes.head("/u/{token}", include_in_schema=False)
    @routes.get("/u/{token}", summary="Ask whether to unsubscribe", response_class=Response, responses=_PAGE_RESPONSES)
    async def ask(token: str) -> Response:
        """Return a page with a button, and change nothing: mail scanners open links, too."""
        return _page(404, _INVALID_LINK_PAGE) if read_token(token) is None else _page(200, _CONFIRM_PAGE)

    @routes.post(
        "/u/{token}",
        summary="Unsubscribe by one click",
        response_class=Response,
        responses=_POST_RESPONSES,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def act(token: str, request: Request) -> Response:
        """Unsubscribe the recipient from the brand. Mail programs (RFC 8058) and the page's button post here."""
        email_id = read_token(token)
        if email_id is None:
            return _page(404, _INVALID_LINK_PAGE)
        bind_log_fields(email_id=email_id)
        content_type = request.headers.get("content-type", "")
        if not has_one_click_field(content_type, await read_raw_body(request, BODY_MAX_BYTES)):
            return _page(400, _UNCONFIRMED_PAGE)
        event = _unsubscribe_event(state, email_id, request)
        positions = await state.log.append([LogEntry(DELIVERY_EVENTS, email_id, event)])
        return _page(503, _TRY_AGAIN_PAGE, RETRY_SOON) if None in positions else _page(200, _DONE_PAGE)

    return routes


def has_one_click_field(content_type: str, body: bytes) -> bool:
    """Return True if a form has the one-click field, in either encoding of RFC 8058 §3.1."""
    name, value = ONE_CLICK_FIELD
    media_type = content_type.partition(";")[0].strip().lower()
    if len(content_type) > CONTENT_TYPE_MAX_CHARS:
        return False
    if media_type == "multipart/form-data":
        return any(part == (name, value) for part in _multipart_fields(content_type, body))
    try:
        return (name, value) in urllib.parse.parse_qsl(body.decode("latin-1").strip(), max_num_fields=20)
    except ValueError:
        return False


def _multipart_fields(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a `multipart/form-data` body."""
    head = b"Content-Type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n"
    form = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(head + body)
    return [
        (str(part.get_param("name", "", "content-disposition")), _stripped_text(part.get_payload(decode=True)))
        for part in form.walk()
        if not part.is_multipart()
    ]


def _stripped_text(payload: object) -> str:
    return payload.decode("latin-1").strip() if isinstance(payload, bytes) else ""


def _unsubscribe_event(state: GatewayState, email_id: EmailId, request: Request) -> DeliveryEvent:
    """Return the event that the email's recipient unsubscribed, now, with this request's user agent."""
    now = state.runtime.clock()
    return DeliveryEvent(
        email_id=email_id,
        # Derived from the email alone, so that repeated clicks are one event.
        event_id=event_id(SOURCE, email_id),
        kind=EventKind.UNSUBSCRIBED,
        occurred_at=now,
        recorded_at=now,
        provider=SOURCE,
        user_agent=state.client_info(request.scope).user_agent,
    )


def _page(status: int, content: bytes, extra_headers: dict[str, str] | None = None) -> Response:
    headers = {"Content-Security-Policy": PAGE_CSP, **NO_STORE_HEADERS, **(extra_headers or {})}
    return Response(content, status, headers=headers, media_type="text/html; charset=utf-8")
