"""`/suppressions`: what a tenant decides of addresses in; who gets no mail, why and from which event, out."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from msgspec import Meta

from pipeline import admin
from pipeline.admin import Tenant
from pipeline.errors import LogUnavailable, NotFound
from pipeline.gateway.auth import api_key_of
from pipeline.gateway.problems import HttpProblem, unavailable_response
from pipeline.gateway.request_body import decode_body, read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.signing import Signer
from pipeline.suppressions import cursor, import_file, views
from pipeline.suppressions.commands import (
    SuppressionCommand,
    SuppressionCommandHandler,
    SuppressionReport,
    address_hash,
    address_hashes,
)
from pipeline.suppressions.queries import SuppressionLookup, SuppressionQueries
from projections.suppressions import SuppressionListQuery
from projections.text import storable_text
from topics.suppressions import SuppressionReason

IMPORT_MAX_BYTES: Final = 10_000_000
"""Bytes; more addresses are more files."""
BODY_MAX_BYTES: Final = 10_000
PAGE_MAX_ENTRIES: Final = 1000
_NOT_CONFIRMED: Final = "the log did not confirm it in time; send it again, a repeat is harmless"

_Name = Annotated[str, Meta(min_length=1, max_length=320, description="An address, or its hash as listings show it")]
_Brand = Annotated[str, Meta(min_length=1, max_length=200, description="A brand; `*` is all of the tenant's")]


class SuppressionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address that shall get nothing."""

    address: _Name
    brand: _Brand
    reason: SuppressionReason = SuppressionReason.MANUAL
    note: Annotated[str, Meta(max_length=200, description="For people; no address in it")] = ""


class SuppressionLookupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address that is asked about."""

    address: _Name
    brand: Annotated[
        str, Meta(max_length=200, description="What holds for this brand alone; all, if none is given")
    ] = ""


class SuppressionDecisionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, and whether it holds already."""

    address_hash: str
    brand: str
    in_force: Annotated[bool, Meta(description="False: it is durable, and in force as soon as it is projected")]


class SuppressionListResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page."""

    suppressions: list[views.SuppressionView]
    next: Annotated[str, Meta(description="Empty at the end; a page may be short before that")] = ""


OPENAPI_TYPES: Final = (
    SuppressionRequest,
    SuppressionLookupRequest,
    SuppressionDecisionResponse,
    SuppressionListResponse,
    SuppressionReport,
    views.AddressView,
)
_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_decode_suppression: Final = msgspec.json.Decoder(SuppressionRequest).decode
_decode_lookup: Final = msgspec.json.Decoder(SuppressionLookupRequest).decode

_InPath = Annotated[
    str,
    Path(
        min_length=1,
        max_length=320,
        description="Its hash, or the address; what stands in a URL stands in logs, so the hash is better.",
    ),
]
_OfBrand = Annotated[
    str | None,
    Query(alias="brand", min_length=1, max_length=200, description="What holds for this brand, all brands' included."),
]
_ForBrand = Annotated[
    str, Query(alias="brand", min_length=1, max_length=200, description="A brand; `*` is all of the tenant's.")
]
_OfReason = Annotated[SuppressionReason | None, Query(alias="reason", description="Only for this reason.")]
_OfAddress = Annotated[
    str | None, Query(alias="address", min_length=1, max_length=320, description="Only this address, or its hash.")
]
_Limit = Annotated[int, Query(ge=1, le=PAGE_MAX_ENTRIES, description="At most so many on a page.")]
_Next = Annotated[
    str, Query(alias="next", max_length=cursor.CURSOR_MAX_CHARS, description="`next` of the page before.")
]


def router(world: GatewayState) -> APIRouter:
    """The suppressions' surface."""
    routes = APIRouter(tags=["suppressions"])
    asking, deciding = SuppressionQueries(world.runtime), SuppressionCommandHandler(world.runtime, world.log)
    signer = Signer(world.runtime.settings.secret.get_secret_value(), "cursor")
    caller = Depends(world.authenticate)
    # The paths with a word of their own come before the one that takes any address.
    _add_listing(routes, caller, asking, signer)
    _add_export(routes, caller, asking)
    _add_many(routes, caller, deciding)
    _add_look_ups(routes, caller, asking)
    _add_decisions(routes, caller, asking, deciding)
    return routes


def _add_listing(routes: APIRouter, caller: Any, asking: SuppressionQueries, signer: Signer) -> None:
    Caller = Annotated[Tenant, caller]  # noqa: N806 - a type

    @routes.get("/suppressions", summary="List suppressions", **_described(None, "SuppressionListResponse"))
    async def list_suppressions(  # noqa: PLR0917 - one per parameter, as the framework wants them
        tenant: Caller,
        brand: _OfBrand = None,
        reason: _OfReason = None,
        address: _OfAddress = None,
        limit: _Limit = 100,
        behind: _Next = "",
    ) -> Response:
        """Who gets nothing, and why; in the order of the hashes, so that what comes and goes moves nothing else."""
        if address is not None:
            # A plus that nobody encoded arrives as a blank, which no address has.
            account = await _account(asking, tenant, address.replace(" ", "+"), brand)
            return _json(
                SuppressionListResponse(
                    suppressions=[one for one in account.suppressed if reason in (None, one.reason)]
                )
            )
        asked = SuppressionListQuery(tenant=tenant.tenant, brand=_stored(brand), reason=reason, limit=limit)
        if behind:
            asked = cursor.decode_cursor(signer.verify, behind, asked)
        page = await asking.page(asked)
        entries = [views.suppression_view(key[2], why) for key, why in page.entries]
        more = "" if page.next_position is None else cursor.encode_cursor(signer.tag, asked, page.next_position)
        return _json(SuppressionListResponse(suppressions=entries, next=more))


def _add_export(routes: APIRouter, caller: Any, asking: SuppressionQueries) -> None:
    Caller = Annotated[Tenant, caller]  # noqa: N806 - a type

    @routes.get("/suppressions/export", summary="Export suppressions", **_described(None, "text/csv"))
    async def export_suppressions(
        tenant: Caller,
        brand: _OfBrand = None,
        reason: _OfReason = None,
        form: Annotated[views.ExportFormat, Query(alias="format", description="`csv` or `jsonl`.")] = "csv",
        addresses: Annotated[
            bool, Query(description="Also each address that the history still knows: personal data.")
        ] = False,
    ) -> Response:
        """All of them, as a file that `POST /suppressions/import` takes again."""
        asked = SuppressionListQuery(tenant=tenant.tenant, brand=_stored(brand), reason=reason)
        media = "text/csv; charset=utf-8" if form == "csv" else "application/jsonl"
        headers = {"Content-Disposition": f'attachment; filename="suppressions.{form}"'}
        lines = views.export(asking, asked, form, addresses=addresses)
        return StreamingResponse(await _begun(lines), media_type=media, headers=headers)


def _add_many(routes: APIRouter, caller: Any, deciding: SuppressionCommandHandler) -> None:
    Caller = Annotated[Tenant, caller]  # noqa: N806 - a type

    @routes.post(
        "/suppressions/import", summary="Suppress many addresses", **_described("text/csv", "SuppressionReport")
    )
    async def import_addresses(
        request: Request,
        tenant: Caller,
        brand: Annotated[
            str, Query(max_length=200, description="Where the lines name none: the brand, `*` for all.")
        ] = "",
        reason: Annotated[
            SuppressionReason | None, Query(description="Where the lines name none. Default: manual.")
        ] = None,
        note: Annotated[str, Query(max_length=200, description="For people; no address in it.")] = "",
    ) -> Response:
        """A provider's export or a list of addresses, CSV or JSON, up to 10 MB; a repeat lists nothing twice."""
        body = await read_body(request, IMPORT_MAX_BYTES)
        wish = _wish(request, tenant, brand, reason, note)
        try:
            return _json(await deciding.suppress_many(wish, import_file.parse_file(body)))
        except LogUnavailable:
            return unavailable_response(_NOT_CONFIRMED)


def _add_look_ups(routes: APIRouter, caller: Any, asking: SuppressionQueries) -> None:
    Caller = Annotated[Tenant, caller]  # noqa: N806 - a type

    @routes.post(
        "/suppressions/lookup", summary="Look an address up", **_described("SuppressionLookupRequest", "AddressView")
    )
    async def look_up(request: Request, tenant: Caller) -> Response:
        """The same as `GET /suppressions/{address}`, with the address where no log shows it."""
        wondered = decode_body(_decode_lookup, await read_body(request, BODY_MAX_BYTES))
        return _json(await _account(asking, tenant, wondered.address, wondered.brand or None))

    @routes.get("/suppressions/{address:path}", summary="Show one address", **_described(None, "AddressView"))
    async def show(address: _InPath, tenant: Caller, brand: _OfBrand = None) -> Response:
        """Whether it gets mail, why not, and all that is known of it: evidence and decisions."""
        return _json(await _account(asking, tenant, address, brand))


def _add_decisions(
    routes: APIRouter, caller: Any, asking: SuppressionQueries, deciding: SuppressionCommandHandler
) -> None:
    Caller = Annotated[Tenant, caller]  # noqa: N806 - a type

    @routes.post(
        "/suppressions",
        summary="Suppress an address",
        **_described("SuppressionRequest", "SuppressionDecisionResponse", 201, 202),
    )
    async def suppress(request: Request, tenant: Caller) -> Response:
        """201, or 200 where it was listed so already; 202 where it is durable and not in force yet."""
        wanted = decode_body(_decode_suppression, await read_body(request, BODY_MAX_BYTES))
        wish = _wish(request, tenant, wanted.brand, wanted.reason, wanted.note)
        hashed = address_hash(asking, wanted.address)
        try:
            news, in_force = await deciding.suppress(wish, hashed)
        except LogUnavailable:
            return unavailable_response(_NOT_CONFIRMED)
        decided = SuppressionDecisionResponse(address_hash=hashed.hex(), brand=wanted.brand, in_force=in_force)
        return _json(decided, 202 if not in_force else 201 if news else 200)

    @routes.delete(
        "/suppressions/{address:path}",
        summary="Lift a suppression",
        **_described(None, "SuppressionDecisionResponse", 202),
    )
    async def lift(address: _InPath, request: Request, tenant: Caller, brand: _ForBrand) -> Response:
        """It gets mail again, until it bounces, complains or unsubscribes anew."""
        named = address_hashes(asking, address)
        try:
            in_force = await deciding.lift(_wish(request, tenant, brand), named)
        except NotFound as error:
            raise HttpProblem(404, str(error), "address") from None
        except LogUnavailable:
            return unavailable_response(_NOT_CONFIRMED)
        return _json(
            SuppressionDecisionResponse(address_hash=named.hash.hex(), brand=brand, in_force=in_force),
            200 if in_force else 202,
        )


async def _account(asking: SuppressionQueries, tenant: Tenant, name: str, brand: str | None) -> views.AddressView:
    named = address_hashes(asking, name)
    if brand is None:
        return views.address_view(named.hash, await asking.of_address(tenant.tenant, named))
    asked = SuppressionLookup((tenant.tenant, storable_text(brand), named.hash), named.old)
    return views.address_view(named.hash, await asking.look_up([asked]))


async def _begun(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The lines, the first of them made before the answer's status goes out."""
    first = await anext(lines, "")

    async def whole() -> AsyncIterator[str]:
        yield first
        async for more in lines:
            yield more

    return whole()


def _wish(
    request: Request, tenant: Tenant, brand: str, reason: SuppressionReason | None = None, note: str = ""
) -> SuppressionCommand:
    """By the key's name, as `mailfold keys list` shows it."""
    by = f"api {admin.key_hash(api_key_of(request)).hex()[:12]}"
    return SuppressionCommand(tenant=tenant.tenant, brand=brand, by=by, reason=reason, note=note)


def _stored(brand: str | None) -> str | None:
    return None if brand is None else storable_text(brand)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _described(body: str | None, answer: str, *more: int) -> dict[str, Any]:
    """What OpenAPI says of it."""

    def media(name: str) -> dict[str, Any]:
        if "/" in name:
            return {kind: {"schema": {"type": "string"}} for kind in (name, "application/jsonl")}
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    extra: dict[str, Any] = {"security": [{"ApiKey": []}]}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": media(body)}
    problem = {"description": "What is wrong, and where.", "content": _PROBLEM}
    found = {"description": "As asked.", "content": media(answer)}
    problems: Sequence[int] = (400, 401, 404, 408, 413, 415, 503)
    return {
        "openapi_extra": extra,
        "response_class": Response,
        "responses": dict.fromkeys((200, *more), found) | dict.fromkeys(problems, problem),
    }
