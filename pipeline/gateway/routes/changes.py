"""Serve the feed of changes: every version of every email, in one order that never changes, by long polling.

The order is the time since which a version is valid, then the email's id, then the version's number. A version is in
the feed once every partition is projected beyond its time; from then on no version can come before it, however many
projectors write at once. The application includes its router.
"""

import asyncio
import contextlib
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.admin import ApiKey
from pipeline.dialects import api_v1, api_v1_query
from pipeline.errors import Refused
from pipeline.gateway.client_left import run_while_connected
from pipeline.gateway.openapi import api_v1 as openapi
from pipeline.gateway.routes.emails import EmailHistoryRoutes, brand_of_key, build_response, masks_addresses
from pipeline.gateway.state import GatewayState
from pipeline.gateway.tenant_questions import TURN_WAIT_S
from projections import email_cursor, email_queries
from projections.email_listing import (
    DEFAULT_PAGE_EMAILS,
    PAGE_MAX_EMAILS,
    ChangeFeed,
    ChangePage,
    ChangePosition,
    position_after,
)
from projections.history_queries import Connection
from projections.signed_cursor import InvalidCursor
from topics.record import Millis

MAX_WAIT_S: Final = 30
POLL_INTERVAL_S: Final = 0.5
"""Seconds between two looks at the projected time while a client waits; only when it moved are changes read."""


def router(state: GatewayState) -> APIRouter:
    """Return the route of the feed."""
    routes = APIRouter(tags=["history"])
    emails = EmailHistoryRoutes(state)
    Caller = Annotated[ApiKey, Depends(state.authenticate)]  # noqa: N806 - a type

    @routes.get("/api/v1/changes", **openapi.route("Follow changes", "ChangesResponse"))
    async def list_changes(
        request: Request,
        key: Caller,
        since: Annotated[
            str,
            Query(
                max_length=500,
                description="`next` of the previous answer; or a time, to begin with what became valid then. "
                "Default: from the beginning.",
            ),
        ] = "",
        wait: Annotated[
            float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for a change if there is none.")
        ] = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX_EMAILS, description="Changes in one answer, at most.")] = (
            DEFAULT_PAGE_EMAILS
        ),
    ) -> Response:
        """List each version of each email in the order in which they became valid; wait for the next one.

        Nothing is missing and nothing comes later at an earlier place. Store `next` together with the changes, and go
        on from it; it is valid for as long as you like, also after a rebuild.
        """
        feed = ChangeFeed(key.tenant.tenant, brand_of_key(key))
        start = _start(emails, feed.tenant, since)
        with emails.questions.long_poll(feed.tenant) if wait else contextlib.nullcontext():
            until, page = await _wait_for_changes(emails, request, feed, start, limit, wait)
        return await build_response(lambda: _response(emails, key, start, until, page))

    return routes


def _start(emails: EmailHistoryRoutes, tenant: str, since: str) -> ChangePosition:
    """Return the position of a token or time. Raise Refused."""
    if not since:
        return position_after(-1)
    try:
        return position_after(api_v1_query.parse_time("since", since) - 1)
    except Refused:
        pass
    try:
        return email_cursor.decode_change_cursor(emails.signer.verify, tenant, since)
    except InvalidCursor as error:
        raise Refused(str(error), "since") from None


async def _wait_for_changes(  # noqa: PLR0917 - all of it is needed
    emails: EmailHistoryRoutes, request: Request, feed: ChangeFeed, start: ChangePosition, limit: int, wait_s: float
) -> tuple[Millis, ChangePage]:
    """Return up to when the feed was read and its next page, for which ``wait_s`` is waited if there is none."""
    now = asyncio.get_running_loop().time
    deadline = now() + wait_s
    until, page = await _read(emails, request, feed, start, limit)
    while not page.rows and page.next_position is None and now() < deadline:
        pause_s = min(POLL_INTERVAL_S, max(0, deadline - now()))
        await run_while_connected(request, asyncio.sleep(pause_s))
        if await emails.projected_time() > until:
            # Its other long polls ask at the same moment: each waits until it is its turn.
            until, page = await _read(emails, request, feed, start, limit, turn_wait_s=None)
    return until, page


async def _read(  # noqa: PLR0917 - all of it is needed
    emails: EmailHistoryRoutes,
    request: Request,
    feed: ChangeFeed,
    start: ChangePosition,
    limit: int,
    turn_wait_s: float | None = TURN_WAIT_S,
) -> tuple[Millis, ChangePage]:
    async def find(connection: Connection, moment: Millis) -> ChangePage:
        return await email_queries.find_changes(connection, feed, start, moment, limit)

    return await emails.read(request, find, turn_wait_s=turn_wait_s)


def _response(emails: EmailHistoryRoutes, key: ApiKey, start: ChangePosition, until: Millis, page: ChangePage) -> Any:
    # Without more, the feed is read up to `until`: the next question begins there, not at the last change.
    # A standby may be behind the place from which it is asked.
    read_to = position_after(until) if until >= start.valid_from else start
    end = page.next_position or read_to
    tenant = key.tenant.tenant
    return api_v1.ChangesResponse(
        changes=[api_v1.email_view(row, masks_addresses=masks_addresses(key)) for row in page.rows],
        next=email_cursor.encode_change_cursor(emails.signer.tag, tenant, end),
        as_of=api_v1.rfc3339(until),
        more=page.next_position is not None,
    )
