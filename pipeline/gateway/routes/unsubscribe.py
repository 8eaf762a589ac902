"""One-click unsubscribe (RFC 8058): a signed token and the one field in, an event that is surely on the log out.

Only the POST acts: mail scanners follow every link they see, and none of them may unsubscribe
anybody. So the GET is a page with a button, which posts what a mail program posts.
"""

import email.parser
import email.policy
import urllib.parse
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from pipeline.content import tokens
from pipeline.content.unsubscribe import ONE_CLICK
from pipeline.errors import Forged
from pipeline.gateway.headers import NO_STORE, RETRY_SOON
from pipeline.gateway.html import CSP, page
from pipeline.gateway.request_body import read_raw
from pipeline.gateway.state import World
from pipeline.runtime.ports import Entry
from pipeline.runtime.signing import Signer
from topics.events import DeliveryEvent, EventKind
from topics.ids import event_id
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS

BODY_MAX: Final = 10_000
TYPE_MAX: Final = 300
"""Characters of a Content-Type; its parser takes more than linear time."""
SOURCE: Final = "unsubscribe"

_ASK: Final = page(
    "mail",
    "Unsubscribe from these emails?",
    "You will get no more emails from this sender.",
    "Unsubscribe",
)
_DONE: Final = page("done", "You are unsubscribed", "What is already on its way may still arrive.")
_LATER: Final = page("lost", "That didn’t work yet", "Please try again in a moment.", "Try again")
_UNASKED: Final = page("mail", "Unsubscribe from these emails?", "Please confirm with the button.", "Unsubscribe")
_LOST: Final = page(
    "lost",
    "This link doesn’t work",
    "It may have been cut off. Please open it again from the email, or use your mail program’s own unsubscribe button.",
)

_HTML: Final = {"text/html": {"schema": {"type": "string"}}}
_FORM: Final[dict[str, Any]] = {
    "schema": {
        "type": "object",
        "required": [ONE_CLICK[0]],
        "properties": {ONE_CLICK[0]: {"type": "string", "enum": [ONE_CLICK[1]]}},
    }
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "A page.", "content": _HTML},
    404: {"description": "The token is not ours; a page that says so.", "content": _HTML},
}
_ACTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "It is on the log. A repeat changes nothing.", "content": _HTML},
    400: {"description": "The body doesn't say `List-Unsubscribe=One-Click`: nothing was done.", "content": _HTML},
    404: _ANSWERS[404],
    413: {"description": f"A body of over {BODY_MAX} bytes."},
    503: {"description": "Not durable: send it again.", "content": _HTML},
}


def router(world: World) -> APIRouter:
    """`/u/{token}`."""
    routes = APIRouter(tags=["tracking"])
    signer = Signer(world.rt.settings.secret.get_secret_value(), "unsubscribe")

    def whose(token: str) -> EmailId | None:
        try:
            return tokens.read_unsubscribe_token(signer, token)
        except Forged:
            world.metrics.forged.labels(SOURCE).inc()
            return None

    @routes.head("/u/{token}", include_in_schema=False)
    @routes.get("/u/{token}", summary="Ask whether to unsubscribe", response_class=Response, responses=_ANSWERS)
    async def ask(token: str) -> Response:
        """A page with a button; nothing changes, however often robots come by."""
        return _page(404, _LOST) if whose(token) is None else _page(200, _ASK)

    body = {"required": True, "content": {"application/x-www-form-urlencoded": _FORM, "multipart/form-data": _FORM}}

    @routes.post(
        "/u/{token}",
        summary="Unsubscribe by one click",
        response_class=Response,
        responses=_ACTED,
        openapi_extra={"requestBody": body},
    )
    async def act(token: str, request: Request) -> Response:
        """What a mail program posts (RFC 8058), and the page's button: the reader gets no more of this brand."""
        email_id = whose(token)
        if email_id is None:
            return _page(404, _LOST)
        if not says_so(request.headers.get("content-type", ""), await read_raw(request, BODY_MAX)):
            return _page(400, _UNASKED)
        event = _event(world, email_id, request)
        places = await world.log.append([Entry(DELIVERY_EVENTS, email_id, event)])
        return _page(503, _LATER, RETRY_SOON) if None in places else _page(200, _DONE)

    return routes


def says_so(content_type: str, body: bytes) -> bool:
    """Whether a form, of either encoding (RFC 8058 §3.1), holds the one field."""
    name, value = ONE_CLICK
    media_type = content_type.partition(";")[0].strip().lower()
    if len(content_type) > TYPE_MAX:
        return False
    if media_type == "multipart/form-data":
        return any(part == (name, value) for part in _parts(content_type, body))
    try:
        return (name, value) in urllib.parse.parse_qsl(body.decode("latin-1").strip(), max_num_fields=20)
    except ValueError:
        return False


def _parts(content_type: str, body: bytes) -> list[tuple[str, str]]:
    head = b"Content-Type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n"
    form = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(head + body)
    return [
        (str(part.get_param("name", "", "content-disposition")), _text(part.get_payload(decode=True)))
        for part in form.walk()
        if not part.is_multipart()
    ]


def _text(payload: object) -> str:
    return payload.decode("latin-1").strip() if isinstance(payload, bytes) else ""


def _event(world: World, email_id: EmailId, request: Request) -> DeliveryEvent:
    now = world.rt.clock()
    return DeliveryEvent(
        email_id=email_id,
        # The same however often somebody clicks.
        event_id=event_id(SOURCE, email_id),
        kind=EventKind.UNSUBSCRIBED,
        occurred_at=now,
        recorded_at=now,
        provider=SOURCE,
        user_agent=world.callers(request.scope).agent,
    )


def _page(status: int, content: bytes, more: dict[str, str] | None = None) -> Response:
    headers = {"Content-Security-Policy": CSP, **NO_STORE, **(more or {})}
    return Response(content, status, headers=headers, media_type="text/html; charset=utf-8")
