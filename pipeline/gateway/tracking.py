"""A pixel's or link's token -> an open or click on the log, and always the answer its reader expects."""

import urllib.parse
from typing import Final

from fastapi import APIRouter, Request, Response

from pipeline import humans, tokens
from pipeline.errors import Forged
from pipeline.gateway.problems import respond
from pipeline.gateway.world import World
from pipeline.ports import Entry
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS

APPEND_S: Final = 0.05
"""A person waits for the picture and, worse, for the page behind the link."""
AGENT_MAX: Final = 500

GIF: Final = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")
"""1×1, transparent, 43 bytes."""
NO_STORE: Final = {"Cache-Control": "no-store, no-cache, must-revalidate, private, max-age=0", "Pragma": "no-cache"}


def router(world: World) -> APIRouter:
    """`/o/{token}.gif` and `/c/{token}`."""
    routes = APIRouter(tags=["tracking"])

    @routes.head("/o/{token}.gif", include_in_schema=False)
    @routes.get("/o/{token}.gif", summary="Tracking pixel", response_class=Response)
    async def pixel(token: str, request: Request) -> Response:
        """Note an open; a forged token gets the same picture."""
        try:
            email_id = tokens.read_pixel_token(world.signer, token)
            if request.method == "GET":
                await note(world, _event(world, request, email_id))
        except Forged:
            world.metrics.forged.labels("pixel").inc()
        return Response(GIF, media_type="image/gif", headers=NO_STORE)

    @routes.head("/c/{token}", include_in_schema=False)
    @routes.get("/c/{token}", summary="Tracked link", status_code=302, response_class=Response)
    async def click(token: str, request: Request) -> Response:
        """Note a click and go on to the page that was signed."""
        try:
            email_id, _, url = tokens.read_click_token(world.signer, token)
            location = _location(url)
        except Forged:
            world.metrics.forged.labels("click").inc()
            return respond(404, "no such link", "/c/…", NO_STORE)
        if request.method == "GET":
            await note(world, _event(world, request, email_id, url))
        headers = {"Location": location, "Referrer-Policy": "no-referrer", **NO_STORE}
        return Response(status_code=302, headers=headers)

    return routes


def _event(world: World, request: Request, email_id: EmailId, url: str = "") -> DeliveryEvent:
    source, kind = ("click", EventKind.CLICKED) if url else ("pixel", EventKind.OPENED)
    now = world.rt.clock()
    agent = request.headers.get("user-agent", "")[:AGENT_MAX]
    return DeliveryEvent(
        email_id=email_id,
        event_id=f"{source}:{world.rt.new_id()}",
        kind=kind,
        occurred_at=now,
        recorded_at=now,
        provider=source,
        machine=humans.machine_reason(agent),
        url=url,
        user_agent=agent,
    )


async def note(world: World, event: DeliveryEvent) -> None:
    """To the log within APPEND_S, else to the spool; behind what already waits there."""
    if not world.spool.busy:
        places = await world.log.append([Entry(DELIVERY_EVENTS, event.email_id, event)], within=APPEND_S)
        if places[0] is not None:
            return
    await world.spool.keep(event)


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
