"""Serve the feed of changes: every version of every email, in one order that never changes, by long polling.

The order is the time since which a version is valid, then the email's id, then the version's number. A version is in
the feed once every partition is projected beyond its time; from then on no version can come before it, however many
projectors write at once. The application includes its router.
"""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.admin import ApiKey
from pipeline.dialects import api_v1, api_v1_query
from pipeline.errors import Refused
from pipeline.gateway.openapi import api_v1 as openapi
from pipeline.gateway.routes.emails import EmailHistoryRoutes, brand_of_key, json_response, masks_addresses
from pipeline.gateway.state import GatewayState
from projections import email_cursor, email_queries
from projections.email_listing import (
    DEFAULT_PAGE_EMAILS,
    PAGE_MAX_EMAILS,
    ChangeFeed,
    ChangePosition,
    ChangeRow,
    position_after,
)
from projections.history_queries import Connection
from projections.signed_cursor import InvalidCursor
from topics.record import Millis

MAX_WAIT_S: Final = 30
POLL_INTERVAL_S: Final = 0.5
"""Seconds between two looks for changes while a client waits."""


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
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            until, rows = await _read(emails, request, feed, start, limit)
            if rows or asyncio.get_running_loop().time() >= deadline:
                return json_response(_response(emails, key, start, until, rows, limit))
            await asyncio.sleep(min(POLL_INTERVAL_S, max(0, deadline - asyncio.get_running_loop().time())))

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


async def _read(
    emails: EmailHistoryRoutes, request: Request, feed: ChangeFeed, start: ChangePosition, limit: int
) -> tuple[Millis, list[ChangeRow]]:
    async def find(connection: Connection, moment: Millis) -> list[ChangeRow]:
        return await email_queries.find_changes(connection, feed, start, moment, limit + 1)

    return await emails.read(request, find)


def _response(  # noqa: PLR0917 - all of it is needed
    emails: EmailHistoryRoutes, key: ApiKey, start: ChangePosition, until: Millis, rows: list[ChangeRow], limit: int
) -> Any:
    has_more = len(rows) > limit
    # Without more, the feed is read up to `until`: the next question begins there, not at the last change.
    # A standby may be behind the place from which it is asked.
    read_to = position_after(until) if until >= start.valid_from else start
    end = rows[limit - 1].position if has_more else read_to
    tenant = key.tenant.tenant
    return api_v1.ChangesResponse(
        changes=[api_v1.email_view(row, masks_addresses=masks_addresses(key)) for row in rows[:limit]],
        next=email_cursor.encode_change_cursor(emails.signer.tag, tenant, end),
        as_of=api_v1.rfc3339(until),
        more=has_more,
    )
