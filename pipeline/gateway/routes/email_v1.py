"""Serve `/v1/Email/`: POST sends messages to brands' customers, GET lists the history of emails in pages.

The application includes its router; the POST is in `email_v1_send`.
"""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.admin import ApiKey, KeyScope
from pipeline.dialects import email_v1
from pipeline.errors import Refused
from pipeline.gateway.auth import other_brand, require_scope
from pipeline.gateway.history_reader import HistoryReader
from pipeline.gateway.routes import email_v1_send as sending
from pipeline.gateway.state import GatewayState
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from projections import history, history_cursor, history_queries
from topics.ids import brand_uuid

EXAMPLE: Final = {
    "Emails": [
        {
            "Email": "example@example.com",
            "Type": "tokenAndGroup",
            "MessageId": "0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001",
            "SentAt": 1449791030,
            "LastUpdated": 1449792030,
            "State": "delivered",
            "BrandId": "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",
            "OwnerId": "c2f1d1de-6a6f-5b63-8a56-5e1d1f0e9b03",
            "MsgDetails": {
                "To": "example@example.com",
                "Type": "tokenAndGroup",
                "BrandId": "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",
                "Token": "abcde",
                "GroupId": "5d0f7f6e-7c1c-5f44-9a0a-6f0b7d1c2e04",
                "NumPhotos": 10,
            },
            "ComplaintType": "",
            "BounceType": "",
            "BounceSubType": "",
            "BounceDetails": "",
            "DeliveredDate": 1449792030,
        }
    ],
    "Next": "kYjZ6mC0…",
}


def _listing_schema() -> dict[str, Any]:
    """Return the JSON schema of a page, made from the types that encode it."""
    (_,), components = msgspec.json.schema_components([email_v1.EmailV1ListResponse], ref_template="#/$defs/{name}")
    listing = components.pop("EmailV1ListResponse")
    email = components.pop("EmailV1ListedEmail")
    email["properties"]["State"] = components.pop("ListedState")
    email["properties"]["MsgDetails"] = {
        "type": "object",
        "description": "The send request's To, Type, BrandId, Token, GroupId, NumPhotos and OrderId, where they apply.",
    }
    listing["properties"]["Emails"] = {"type": "array", "items": email, "maxItems": history.PAGE_MAX_EMAILS}
    return dict(listing)


OPENAPI_TYPES: Final = sending.OPENAPI_TYPES
_OfAddress = Annotated[
    str,
    Query(
        alias="Email",
        description="All emails to exactly this address; other parameters are ignored. "
        "Needs the scope `history:addresses`.",
    ),
]
_ERROR: Final = {"application/json": {"schema": {"type": "object", "properties": {"Error": {"type": "string"}}}}}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A page; `Next` is there if more pages follow.",
        "content": {"application/json": {"schema": _listing_schema(), "example": EXAMPLE}},
    },
    400: {"description": "A parameter is invalid; `Error` says which.", "content": _ERROR},
    401: {"description": "No API key, or one that is unknown, revoked or expired.", "content": _ERROR},
    503: {"description": "Postgres does not answer; the request may be sent again.", "content": _ERROR},
}

_LISTING_OPENAPI: Final[dict[str, Any]] = {
    "summary": "The email history",
    "response_class": Response,
    "responses": _RESPONSES,
}


def encode_error(_status: int, error: str, where: str) -> bytes:
    """Return an error's JSON body as this API's clients expect it."""
    return email_v1.encode_error(f"{where}: {error}" if where else error)


def router(state: GatewayState) -> APIRouter:
    """Return the routes of `/v1/Email/`."""
    routes = APIRouter(tags=["/v1/Email/"])
    sending.add_route(routes, state)
    signer = Signer(secret_ring(state.runtime.settings), "cursor")

    @routes.get("/v1/Email/", **_LISTING_OPENAPI)
    @routes.get("/v1/Email", include_in_schema=False)
    async def email_history(
        request: Request,
        key: Annotated[ApiKey, Depends(state.authenticate)],
        # Declared for OpenAPI alone: the values are read from the request, so that errors have this dialect's shape.
        _brand: Annotated[str, Query(alias="BrandId", description="Only emails of this brand.")] = "",
        _next: Annotated[str, Query(alias="Next", description="`Next` of the previous page.")] = "",
        _after: Annotated[
            str,
            Query(
                alias="After",
                description="Unix time in seconds; lists emails as they were at that time. Default: now.",
                examples=["1449792030"],
            ),
        ] = "",
        _state: Annotated[
            str, Query(alias="State", description="Only emails that are sent, delivered, bounced or complaint.")
        ] = "",
        _email: _OfAddress = "",
    ) -> Response:
        """List emails, newest first, a hundred a page. All pages show the same point in time.

        Addresses are masked for a key without `history:addresses`, and a key for one brand lists that brand's emails.
        """
        try:
            body = await history_page(state.history, signer, key, email_v1.parse_query(request.query_params))
        except (Refused, history_cursor.InvalidHistoryCursor) as error:
            # The message already names the parameter.
            return Response(email_v1.encode_error(str(error)), 400, media_type="application/json")
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    return routes


async def history_page(
    reader: HistoryReader, signer: Signer, key: ApiKey, list_query: email_v1.EmailV1ListQuery
) -> bytes:
    """Return one page of the history as JSON. Raises InvalidHistoryCursor, HttpProblem 403."""
    tenant = key.tenant.tenant
    if list_query.email:
        require_scope(key, KeyScope.HISTORY_ADDRESSES)
    continued = next_page_query(signer, tenant, list_query) if list_query.next else None

    async def find(
        connection: history_queries.Connection,
    ) -> tuple[history.HistoryQuery, int | None, history.HistoryPage]:
        query, after = continued or first_page_query(
            tenant, list_query, await history_queries.latest_projected_time(connection)
        )
        query = of_allowed_brand(key, query)
        return query, after, await history_queries.find_page(connection, query)

    query, after, page = await reader.read(find, as_of=continued[0].as_of if continued else None)
    next_cursor = (
        "" if page.next_position is None else history_cursor.encode_cursor(signer.tag, query, after, page.next_position)
    )
    states = [row.state for row in page.rows]
    masks_addresses = not key.has_scope(KeyScope.HISTORY_ADDRESSES)
    return email_v1.encode_list_response(tenant, states, next_cursor, masks_addresses=masks_addresses)


def of_allowed_brand(key: ApiKey, query: history.HistoryQuery) -> history.HistoryQuery:
    """Return the query for the key's brand, if it has one. Raise HttpProblem 403 where it is for another brand.

    Also a cursor may be for another brand: keys of one tenant may continue each other's listings.
    """
    if not key.limits.brand:
        return query
    allowed = brand_uuid(key.tenant.tenant, key.limits.brand)
    if query.filter.brand_uuid not in ("", allowed):
        raise other_brand(key)
    return msgspec.structs.replace(query, filter=msgspec.structs.replace(query.filter, brand_uuid=allowed))


def next_page_query(
    signer: Signer, tenant: str, list_query: email_v1.EmailV1ListQuery
) -> tuple[history.HistoryQuery, int | None]:
    """Return the query for the page after a cursor, and the `After` of its listing. Raises InvalidHistoryCursor."""
    parameters = history_cursor.ListingParameters(filter=_history_filter(tenant, list_query), after=list_query.after)
    return history_cursor.decode_cursor(signer.verify, tenant, list_query.next, parameters)


def first_page_query(
    tenant: str, list_query: email_v1.EmailV1ListQuery, latest: int
) -> tuple[history.HistoryQuery, int | None]:
    """Return the query for a first page, and its `After`.

    The page shows the time `After`, or `latest`, the newest projected time in milliseconds.
    """
    as_of = history.point_in_time(list_query.after, latest)
    history_filter = _history_filter(tenant, list_query)
    return history.HistoryQuery(tenant=tenant, filter=history_filter, as_of=as_of), list_query.after


def _history_filter(tenant: str, list_query: email_v1.EmailV1ListQuery) -> history.HistoryFilter:
    return history.HistoryFilter(
        brand_uuid=brand_uuid(tenant, list_query.brand) if list_query.brand else "",
        listed=list_query.state,
        recipient=list_query.email,
    )
