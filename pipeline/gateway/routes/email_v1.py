"""`/v1/Email/`: POST takes messages to brands' customers; GET answers a question with a page of the history."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.admin import Tenant
from pipeline.dialects import email_v1
from pipeline.errors import Refused
from pipeline.gateway.routes import email_v1_send as sending
from pipeline.gateway.state import GatewayState
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.signing import Signer
from projections import cursor, history, postgres
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


def _schema() -> dict[str, Any]:
    """The answer's JSON schema, from the very types that make it."""
    (_,), parts = msgspec.json.schema_components([email_v1.EmailV1ListResponse], ref_template="#/$defs/{name}")
    listing = parts.pop("EmailV1ListResponse")
    email = parts.pop("EmailV1ListedEmail")
    email["properties"]["State"] = parts.pop("ListedState")
    email["properties"]["MsgDetails"] = {
        "type": "object",
        "description": "How it was sent: To, Type, BrandId, Token, GroupId, NumPhotos, OrderId, those that apply.",
    }
    listing["properties"]["Emails"] = {"type": "array", "items": email, "maxItems": history.PAGE_MAX_EMAILS}
    return dict(listing)


OPENAPI_TYPES: Final = sending.OPENAPI_TYPES
_ERROR: Final = {"application/json": {"schema": {"type": "object", "properties": {"Error": {"type": "string"}}}}}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A page; with `Next`, there are more.",
        "content": {"application/json": {"schema": _schema(), "example": EXAMPLE}},
    },
    400: {"description": "A parameter can't be understood; `Error` says which.", "content": _ERROR},
}


def encode_error(_status: int, error: str, where: str) -> bytes:
    """An error as this API's clients expect it."""
    return email_v1.encode_error(f"{where}: {error}" if where else error)


def router(world: GatewayState) -> APIRouter:
    """The surface."""
    routes = APIRouter(tags=["/v1/Email/"])
    rt, tenant_of = world.runtime, world.authenticate
    sending.add_route(routes, world)
    signer = Signer(rt.settings.secret.get_secret_value(), "cursor")

    @routes.get("/v1/Email/", responses=_RESPONSES, response_class=Response, summary="The email history")
    @routes.get("/v1/Email", include_in_schema=False)
    async def email_history(
        request: Request,
        tenant: Annotated[Tenant, Depends(tenant_of)],
        # Named for the documentation; read from the request, so that every error is of this dialect's shape.
        _brand: Annotated[str, Query(alias="BrandId", description="Only emails of this brand.")] = "",
        _next: Annotated[str, Query(alias="Next", description="`Next` of the page before: goes on behind it.")] = "",
        _after: Annotated[
            str,
            Query(
                alias="After",
                description="Unix time: everything as it was then. Default: now.",
                examples=["1449792030"],
            ),
        ] = "",
        _state: Annotated[
            str, Query(alias="State", description="Only emails that are sent, delivered, bounced or complaint.")
        ] = "",
        _email: Annotated[
            str, Query(alias="Email", description="All emails to exactly this address; other parameters are ignored.")
        ] = "",
    ) -> Response:
        """Newest first, a hundred a page. All pages show one moment; what changes meanwhile is in the next listing."""
        try:
            body = await history_page(rt, signer, tenant.tenant, email_v1.parse_query(request.query_params))
        except (Refused, cursor.InvalidHistoryCursor) as error:
            # Which parameter it is stands in the words.
            return Response(email_v1.encode_error(str(error)), 400, media_type="application/json")
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    return routes


async def history_page(rt: Runtime, signer: Signer, tenant: str, asked: email_v1.EmailV1ListQuery) -> bytes:
    """The page that is asked for. Raises BadCursor."""
    goes_on = next_page_query(signer, tenant, asked) if asked.next else None
    async with rt.pool.connection() as connection:
        query, after = goes_on or first_page_query(tenant, asked, await postgres.latest_projected_time(connection))
        page = await postgres.find_page(connection, query)
    behind = "" if page.next_position is None else cursor.encode_cursor(signer.tag, query, after, page.next_position)
    return email_v1.encode_list_response(tenant, [row.state for row in page.rows], behind)


def next_page_query(
    signer: Signer, tenant: str, asked: email_v1.EmailV1ListQuery
) -> tuple[history.HistoryQuery, int | None]:
    """The page behind a cursor. Raises BadCursor."""
    given = cursor.ListingParameters(filter=_wanted(tenant, asked), after=asked.after)
    return cursor.decode_cursor(signer.verify, tenant, asked.next, given)


def first_page_query(
    tenant: str, asked: email_v1.EmailV1ListQuery, latest: int
) -> tuple[history.HistoryQuery, int | None]:
    """A first page, as of `After` or as late as can be."""
    as_of = history.point_in_time(asked.after, latest)
    return history.HistoryQuery(tenant=tenant, filter=_wanted(tenant, asked), as_of=as_of), asked.after


def _wanted(tenant: str, asked: email_v1.EmailV1ListQuery) -> history.HistoryFilter:
    return history.HistoryFilter(
        brand_uuid=brand_uuid(tenant, asked.brand) if asked.brand else "",
        listed=asked.state,
        recipient=asked.email,
    )
