"""Serve the history API's emails: pages by any filter, one email, its timeline and versions as of any moment.

The application includes its router. :mod:`pipeline.gateway.routes.changes` is the feed of what changes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from pipeline.admin import ApiKey, KeyScope
from pipeline.dialects import api_v1, api_v1_query
from pipeline.errors import Refused
from pipeline.gateway.auth import other_brand, require_scope
from pipeline.gateway.client_left import run_while_connected
from pipeline.gateway.openapi import api_v1 as openapi
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import decode_body, read_body
from pipeline.gateway.state import GatewayState
from pipeline.gateway.tenant_questions import RETRY_LATER, TURN_WAIT_S
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer, canonical_address
from projections import email_cursor, email_queries
from projections.columns import is_storable_id
from projections.email_cursor import EmailQuestion
from projections.email_listing import (
    DEFAULT_PAGE_EMAILS,
    EmailCount,
    EmailFilter,
    EmailOrder,
    EmailPage,
    EmailPosition,
    EmailQuery,
    EmailRow,
)
from projections.history_queries import Connection, latest_projected_time
from projections.signed_cursor import InvalidCursor
from projections.timeline import TimelineFact, in_causal_order
from topics.ids import brand_uuid
from topics.record import EmailId, Millis

OPENAPI_TYPES: Final = api_v1.OPENAPI_TYPES
LOOKUP_MAX_BYTES: Final = 20_000
VERSIONS_PER_PAGE: Final = 100
TIMELINE_MAX_FACTS: Final = 1_000
MAX_VERSION_NUMBER: Final = 2**31 - 1
QUESTION_TIMEOUT_S: Final = 10.0
"""Seconds for all queries of one question, as `email_queries.QUERY_TIMEOUT` is for each in Postgres."""
NOT_PROJECTED: Final = "this moment is not in the history yet; send it again"
TOO_SLOW: Final = (
    "the question takes more than 10 seconds; ask for less: a shorter time of acceptance, a filter that fewer emails "
    "match, or no exact count"
)
T = TypeVar("T")
HistoryQuestion = Callable[[Connection, Millis], Awaitable[T]]
"""A function that reads the history as of a moment."""

_InPath = Annotated[str, Path(max_length=36, description="The email's id.", examples=[openapi.EMAIL_ID])]
_AsOf = Annotated[
    str,
    Query(
        max_length=40,
        description="The moment to show: RFC 3339, or milliseconds since 1970. Default, and at most: now.",
        examples=["2026-11-27T09:30:00Z"],
    ),
]
_DECODE_LOOKUP: Final = msgspec.json.Decoder(dict[str, Any]).decode
_ENCODE: Final = msgspec.json.Encoder().encode


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/api/v1/emails`."""
    routes = APIRouter(tags=["history"])
    emails = EmailHistoryRoutes(state)
    caller = Depends(state.authenticate)
    _add_listing_routes(routes, caller, emails)
    _add_email_routes(routes, caller, emails)
    _add_version_route(routes, caller, emails)
    return routes


class EmailHistoryRoutes:
    """Answers questions of the history API with a gateway's shared objects."""

    def __init__(self, state: GatewayState) -> None:
        self._history = state.history
        self._clock = state.runtime.clock
        self.questions = state.questions
        self.projected_time = state.history.projected_time
        self.signer = Signer(secret_ring(state.runtime.settings), "cursor")

    async def read(
        self,
        request: Request,
        read: HistoryQuestion[T],
        as_of: Millis | None = None,
        *,
        is_shown: bool = False,
        turn_wait_s: float | None = TURN_WAIT_S,
    ) -> tuple[Millis, T]:
        """Return a moment and what was read as of it: ``as_of``; what is projected without it, or if it is to come.

        ``is_shown``: an earlier answer showed this moment, so that it is not to come, whatever our clock says. Each
        tenant has a few questions at once, and all queries of one have `QUESTION_TIMEOUT_S` together; they end with
        the client's connection. Raises HttpProblem 429, 503 for a moment that is not projected yet, and 504.
        """
        wanted = as_of if is_shown or as_of is None or as_of <= self._clock() else None

        async def read_history(connection: Connection) -> tuple[Millis, T]:
            async with asyncio.timeout(QUESTION_TIMEOUT_S):
                latest = await latest_projected_time(connection)
                if wanted is not None and wanted > latest >= 0:
                    raise HttpProblem(503, NOT_PROJECTED, "as_of", RETRY_LATER)
                moment = latest if wanted is None else min(wanted, latest)  # -1 while nothing was ever projected
                async with email_queries.limited_time(connection):
                    return moment, await read(connection, moment)

        async def read_in_turn() -> tuple[Millis, T]:
            async with self.questions.turn(CURRENT_CALLER.get(), turn_wait_s):
                return await self._history.read(read_history, wanted)

        try:
            return await run_while_connected(request, read_in_turn())
        except (email_queries.EmailQueryTimeout, TimeoutError):
            raise HttpProblem(504, TOO_SLOW, f"{request.method} {request.url.path}") from None

    async def page(self, request: Request, key: ApiKey, parameters: api_v1_query.Parameters) -> Response:
        """Return a page of a listing. Raise HttpProblem and Refused."""
        tenant = key.tenant.tenant
        listing = api_v1_query.parse_listing(tenant, parameters, canonical_address)
        if listing.question.filter.recipient is not None:
            require_scope(key, KeyScope.HISTORY_ADDRESSES)
        question, as_of, start_after = self._continued(tenant, listing)
        query = email_query(key, question, start_after)

        async def find(connection: Connection, moment: Millis) -> tuple[EmailPage, EmailCount | None]:
            own = msgspec.structs.replace(query, as_of=moment)
            page = await email_queries.find_emails(connection, own)
            if not listing.count:
                return page, None
            return page, await email_queries.count_emails(connection, own, exact=listing.count == "exact")

        moment, (page, count) = await self.read(request, find, as_of, is_shown=bool(listing.cursor))
        next_cursor = ""
        if page.next_position is not None:
            shown = msgspec.structs.replace(query, as_of=moment)
            next_cursor = email_cursor.encode_email_cursor(self.signer.tag, shown, question, page.next_position)
        return await build_response(lambda: _list_response(key, question, page.rows, moment, next_cursor, count))

    def _continued(
        self, tenant: str, listing: api_v1_query.ListingRequest
    ) -> tuple[EmailQuestion, Millis | None, EmailPosition | None]:
        """Return the question, the moment and the position, which a cursor may have decided. Raise Refused."""
        if not listing.cursor:
            return listing.question, listing.question.as_of, None
        try:
            return email_cursor.decode_email_cursor(self.signer.verify, tenant, listing.cursor, listing.question)
        except InvalidCursor as error:
            raise Refused(str(error), "cursor") from None
        except email_cursor.OtherListing as error:
            raise Refused(f"belongs to a listing with another {error}; send the same one, or none", "cursor") from None

    async def one_email(
        self, request: Request, key: ApiKey, email_id: str, as_of: str, read: HistoryQuestion[T]
    ) -> tuple[Millis, EmailRow, T]:
        """Return an email as of a moment with what else is read of it. Raise HttpProblem 404 and Refused."""
        name = email_id.lower()
        moment = api_v1_query.parse_time("as_of", as_of) if as_of else None

        async def find(connection: Connection, moment: Millis) -> tuple[EmailRow | None, T]:
            row = None
            if is_storable_id(name):
                row = await email_queries.find_email(connection, key.tenant.tenant, EmailId(name), moment)
            return row, await read(connection, moment)

        shown, (row, other) = await self.read(request, find, moment)
        if row is None or not _may_see(key, row):
            raise HttpProblem(404, "no email with this id was known at this moment", "path.email_id")
        return shown, row, other


def email_query(key: ApiKey, question: EmailQuestion, start_after: EmailPosition | None) -> EmailQuery:
    """Return the query of a question, for the key's brand if it has one. Raise HttpProblem 403 for another brand."""
    return EmailQuery(
        tenant=key.tenant.tenant,
        as_of=-1,
        filter=_of_allowed_brand(key, question.filter),
        order=question.order or EmailOrder.ACCEPTED,
        descending=question.descending is not False,
        limit=question.limit or DEFAULT_PAGE_EMAILS,
        start_after=start_after,
    )


def brand_of_key(key: ApiKey) -> str | None:
    """Return the UUID of the only brand that a key may be used for; None if it has none."""
    return brand_uuid(key.tenant.tenant, key.limits.brand) if key.limits.brand else None


def _of_allowed_brand(key: ApiKey, email_filter: EmailFilter) -> EmailFilter:
    allowed = brand_of_key(key)
    if allowed is None:
        return email_filter
    if email_filter.brand_uuid not in (None, allowed):
        raise other_brand(key)
    return msgspec.structs.replace(email_filter, brand_uuid=allowed)


def _may_see(key: ApiKey, row: EmailRow) -> bool:
    return row.state.request is not None and key.may_use_brand(row.state.request.brand)


def masks_addresses(key: ApiKey) -> bool:
    """Return whether answers to this key have masked addresses."""
    return not key.has_scope(KeyScope.HISTORY_ADDRESSES)


def json_response(body: Any) -> Response:
    """Return a response with a JSON body."""
    return Response(_ENCODE(body), media_type="application/json")


async def build_response(build: Callable[[], Any]) -> Response:
    """Return a response with the JSON body that ``build`` returns, made in a thread, because it may be large."""
    return await asyncio.to_thread(lambda: json_response(build()))


def _list_response(  # noqa: PLR0917 - all of it is needed
    key: ApiKey,
    question: EmailQuestion,
    rows: Sequence[EmailRow],
    moment: Millis,
    next_cursor: str,
    count: EmailCount | None,
) -> dict[str, Any]:
    """Return a page's JSON, in the shape of EmailListResponse."""
    views = [api_v1.email_view(row, masks_addresses=masks_addresses(key)) for row in rows]
    body: dict[str, Any] = {
        "as_of": api_v1.rfc3339(moment),
        "emails": [api_v1.select_fields(view, question.fields) for view in views],
    }
    if next_cursor:
        body["next"] = next_cursor
    if count is not None:
        body |= {"count": count.emails, "count_kind": "exact" if count.is_exact else "at_least"}
    return body


def _add_listing_routes(routes: APIRouter, caller: Any, emails: EmailHistoryRoutes) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.get("/api/v1/emails", **openapi.LISTING)
    async def list_emails(request: Request, key: Caller) -> Response:
        """List emails by any combination of filters, as they were at one moment, in pages of up to 500.

        Every page of a listing shows the same moment, and the same question with the same `as_of` has the same answer,
        byte for byte. A parameter that does not exist is refused.
        """
        return await emails.page(request, key, request.query_params.multi_items())

    @routes.post("/api/v1/emails/lookup", **openapi.LOOKUP)
    async def look_emails_up(request: Request, key: Caller) -> Response:
        """List emails like `GET /api/v1/emails`, with the parameters in the body, where no proxy logs an address."""
        body = decode_body(_DECODE_LOOKUP, await read_body(request, LOOKUP_MAX_BYTES))
        return await emails.page(request, key, api_v1_query.parameters_of_body(body))


def _add_email_routes(routes: APIRouter, caller: Any, emails: EmailHistoryRoutes) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.get("/api/v1/emails/{email_id}", **openapi.route("Show one email", "EmailResponse"))
    async def show_email(request: Request, email_id: _InPath, key: Caller, as_of: _AsOf = "") -> Response:
        """Show an email as it was at a moment."""
        moment, row, _ = await emails.one_email(request, key, email_id, as_of, _read_nothing)
        view = api_v1.email_view(row, masks_addresses=masks_addresses(key))
        return json_response(api_v1.EmailResponse(as_of=api_v1.rfc3339(moment), email=view))

    @routes.get("/api/v1/emails/{email_id}/timeline", **openapi.route("Show its timeline", "TimelineResponse"))
    async def show_timeline(request: Request, email_id: _InPath, key: Caller, as_of: _AsOf = "") -> Response:
        """Show all facts about an email that were known at a moment, in causal order.

        Among them are all attempts to send it, repeated events with their places on the log, and all attempts to report
        conversions. Of more than 1,000 facts the earliest are shown, and `truncated` is true; an export has all.
        """
        known = EmailId(email_id.lower())

        async def read(connection: Connection, moment: Millis) -> tuple[list[TimelineFact], bool]:
            if not is_storable_id(known):
                return [], False
            return await email_queries.find_timeline(connection, known, moment, TIMELINE_MAX_FACTS)

        moment, row, (timeline, is_truncated) = await emails.one_email(request, key, email_id, as_of, read)
        masked = masks_addresses(key)
        return await build_response(
            lambda: api_v1.TimelineResponse(
                as_of=api_v1.rfc3339(moment),
                email_id=row.state.email_id,
                timeline=[
                    api_v1.timeline_entry_view(entry, masks_addresses=masked) for entry in in_causal_order(timeline)
                ],
                truncated=is_truncated,
            )
        )


def _add_version_route(routes: APIRouter, caller: Any, emails: EmailHistoryRoutes) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.get("/api/v1/emails/{email_id}/versions", **openapi.route("Show its versions", "VersionsResponse"))
    async def show_versions(
        request: Request,
        email_id: _InPath,
        key: Caller,
        as_of: _AsOf = "",
        after_version: Annotated[
            int, Query(ge=0, le=MAX_VERSION_NUMBER, description="`next_version` of the previous page.")
        ] = 0,
    ) -> Response:
        """Show all versions of an email up to a moment, oldest first, 100 a page."""
        known, tenant = EmailId(email_id.lower()), key.tenant.tenant

        async def read(connection: Connection, moment: Millis) -> EmailPage:
            if not is_storable_id(known):
                return EmailPage([], None)
            return await email_queries.find_versions(
                connection, tenant, known, moment, after_version=after_version, limit=VERSIONS_PER_PAGE
            )

        moment, row, page = await emails.one_email(request, key, email_id, as_of, read)
        masked = masks_addresses(key)
        return await build_response(
            lambda: api_v1.VersionsResponse(
                as_of=api_v1.rfc3339(moment),
                email_id=row.state.email_id,
                versions=[api_v1.email_view(version, masks_addresses=masked) for version in page.rows],
                next_version=None if page.next_position is None else page.rows[-1].version,
            )
        )


async def _read_nothing(_connection: Connection, _moment: Millis) -> None:
    """Read nothing beside the email."""
