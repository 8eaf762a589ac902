"""Serve `/suppressions`: list, export, look up, add, import and lift suppressed addresses.

The application includes its router.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from msgspec import Meta

from pipeline.admin import ApiKey, KeyScope
from pipeline.admin.actions import OperatorChange
from pipeline.errors import LogUnavailable, NotFound
from pipeline.gateway.auth import other_brand_error, require_brand, require_scope
from pipeline.gateway.problems import HttpProblem, unavailable_response
from pipeline.gateway.request_body import decode_body, read_body
from pipeline.gateway.state import GatewayState
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.suppressions import cursor, import_file, views
from pipeline.suppressions.commands import (
    SuppressionCommand,
    SuppressionCommandHandler,
    SuppressionReport,
    address_hash,
    address_hashes,
    import_change,
    suppress_change,
)
from pipeline.suppressions.import_file import ImportedAddress, RejectedLine
from pipeline.suppressions.queries import SuppressionLookup, SuppressionQueries
from projections.suppressions import SuppressionListQuery
from projections.text import storable_text
from topics.suppressions import SuppressionReason

IMPORT_MAX_BYTES: Final = 10_000_000
"""Maximum size of an import file; longer lists are sent as several files."""
BODY_MAX_BYTES: Final = 10_000
ImportLine = ImportedAddress | RejectedLine
PAGE_MAX_ENTRIES: Final = 1000
_NOT_CONFIRMED: Final = "the log did not confirm it in time; send it again, a repeat is harmless"

_Name = Annotated[str, Meta(min_length=1, max_length=320, description="An address, or its hash as listings show it")]
_Brand = Annotated[str, Meta(min_length=1, max_length=200, description="A brand; `*` is all of the tenant's")]


class SuppressionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address to suppress."""

    address: _Name
    brand: _Brand
    reason: SuppressionReason = SuppressionReason.MANUAL
    note: Annotated[str, Meta(max_length=200, description="For people; no address in it")] = ""


class SuppressionLookupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address to look up."""

    address: _Name
    brand: Annotated[str, Meta(max_length=200, description="Only what applies to this brand. Default: all brands")] = ""


class SuppressionDecisionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A suppression that was added or lifted, and if it is already in force."""

    address_hash: str
    brand: str
    in_force: Annotated[bool, Meta(description="False: it is durable, and in force once it is projected")]


class SuppressionListResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of suppressions."""

    suppressions: list[views.SuppressionView]
    next: Annotated[str, Meta(description="Empty on the last page; other pages may be short, too")] = ""


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
        description="The hash of an address, or the address. Prefer the hash, because URLs are logged.",
    ),
]
_OfBrand = Annotated[
    str | None,
    Query(
        alias="brand",
        min_length=1,
        max_length=200,
        description="Only what applies to this brand, also by a suppression for all brands.",
    ),
]
_ForBrand = Annotated[
    str, Query(alias="brand", min_length=1, max_length=200, description="A brand; `*` is all of the tenant's.")
]
_OfReason = Annotated[SuppressionReason | None, Query(alias="reason", description="Only for this reason.")]
_OfAddress = Annotated[
    str | None, Query(alias="address", min_length=1, max_length=320, description="Only this address, or its hash.")
]
_Limit = Annotated[int, Query(ge=1, le=PAGE_MAX_ENTRIES, description="Maximum number of entries on a page.")]
_Next = Annotated[
    str, Query(alias="next", max_length=cursor.CURSOR_MAX_CHARS, description="`next` of the previous page.")
]


class RecordedCommands:
    """The handler of commands, for blocks that run once the record of actions has their change."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self.handler = SuppressionCommandHandler(state.runtime, state.log)

    @contextlib.asynccontextmanager
    async def recorded(self, key: ApiKey, change: OperatorChange) -> AsyncIterator[SuppressionCommandHandler]:
        """Record a change by this key, and yield the handler that makes it. Raise ActionNotRecorded."""
        async with self._state.actions_of(key).recorded(change):
            yield self.handler


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/suppressions`."""
    routes = APIRouter(tags=["suppressions"])
    queries, commands = SuppressionQueries(state.runtime), RecordedCommands(state)
    signer = Signer(secret_ring(state.runtime.settings), "cursor")
    caller = Depends(state.authenticate)
    # Fixed paths come before `/suppressions/{address}`, which matches everything.
    _add_list_route(routes, caller, queries, signer)
    _add_export_route(routes, caller, queries)
    _add_import_route(routes, caller, commands)
    _add_lookup_routes(routes, caller, queries)
    _add_suppress_route(routes, caller, queries, commands)
    _add_lift_route(routes, caller, queries, commands)
    return routes


def _add_list_route(routes: APIRouter, caller: Any, queries: SuppressionQueries, signer: Signer) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.get("/suppressions", summary="List suppressions", **_route_openapi(None, "SuppressionListResponse"))
    async def list_suppressions(  # noqa: PLR0917 - the framework needs one argument per query parameter
        key: Caller,
        brand: _OfBrand = None,
        reason: _OfReason = None,
        address: _OfAddress = None,
        limit: _Limit = 100,
        next_cursor: _Next = "",
    ) -> Response:
        """List suppressed addresses and reasons, ordered by hash, so that changes between pages move no other entry."""
        if address is not None:
            # A plus that the client did not encode arrives as a space, which no address has.
            view = await _look_up(queries, key, address.replace(" ", "+"), brand)
            matching = [entry for entry in view.suppressed if reason in (None, entry.reason)]
            return _json_response(SuppressionListResponse(suppressions=matching))
        query = SuppressionListQuery(tenant=key.tenant.tenant, brand=_brand(key, brand), reason=reason, limit=limit)
        if next_cursor:
            query = cursor.decode_cursor(signer.verify, next_cursor, query)
        page = await queries.page(query)
        entries = [views.suppression_view(place[2], suppression) for place, suppression in page.entries]
        following = "" if page.next_position is None else cursor.encode_cursor(signer.tag, query, page.next_position)
        return _json_response(SuppressionListResponse(suppressions=entries, next=following))


def _add_export_route(routes: APIRouter, caller: Any, queries: SuppressionQueries) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.get("/suppressions/export", summary="Export suppressions", **_route_openapi(None, "text/csv"))
    async def export_suppressions(
        key: Caller,
        brand: _OfBrand = None,
        reason: _OfReason = None,
        form: Annotated[views.ExportFormat, Query(alias="format", description="`csv` or `jsonl`.")] = "csv",
        addresses: Annotated[
            bool,
            Query(
                description="Add each address that the history still holds: personal data. "
                "Needs the scope `history:addresses`, too."
            ),
        ] = False,
    ) -> Response:
        """Export all suppressions as a file that `POST /suppressions/import` accepts."""
        if addresses:
            require_scope(key, KeyScope.HISTORY_ADDRESSES)
        query = SuppressionListQuery(tenant=key.tenant.tenant, brand=_brand(key, brand), reason=reason)
        media_type = "text/csv; charset=utf-8" if form == "csv" else "application/jsonl"
        headers = {"Content-Disposition": f'attachment; filename="suppressions.{form}"'}
        lines = views.export(queries, query, form, addresses=addresses)
        return StreamingResponse(await _with_first_line(lines), media_type=media_type, headers=headers)


def _add_import_route(routes: APIRouter, caller: Any, commands: RecordedCommands) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.post(
        "/suppressions/import", summary="Suppress many addresses", **_route_openapi("text/csv", "SuppressionReport")
    )
    async def import_addresses(
        request: Request,
        key: Caller,
        brand: Annotated[
            str, Query(max_length=200, description="The brand of lines that name none; `*` is all of the tenant's.")
        ] = "",
        reason: Annotated[
            SuppressionReason | None, Query(description="The reason of lines that name none. Default: manual.")
        ] = None,
        note: Annotated[str, Query(max_length=200, description="For people; no address in it.")] = "",
    ) -> Response:
        """Suppress the addresses of a provider's export or a list, CSV or JSON, up to 10 MB; may safely be repeated."""
        body = await read_body(request, IMPORT_MAX_BYTES)
        command = _command(key, brand or key.limits.brand, reason, note)
        lines = _of_allowed_brand(key, import_file.parse_file(body))
        try:
            async with commands.recorded(key, import_change(command)) as handler:
                return _json_response(await handler.suppress_many(command, lines))
        except LogUnavailable:
            return unavailable_response(_NOT_CONFIRMED)


def _add_lookup_routes(routes: APIRouter, caller: Any, queries: SuppressionQueries) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.post(
        "/suppressions/lookup",
        summary="Look an address up",
        **_route_openapi("SuppressionLookupRequest", "AddressView"),
    )
    async def look_up(request: Request, key: Caller) -> Response:
        """Look up like `GET /suppressions/{address}`, but with the address in the body, which is not logged."""
        lookup = decode_body(_decode_lookup, await read_body(request, BODY_MAX_BYTES))
        return _json_response(await _look_up(queries, key, lookup.address, lookup.brand or None))

    @routes.get("/suppressions/{address:path}", summary="Show one address", **_route_openapi(None, "AddressView"))
    async def show(address: _InPath, key: Caller, brand: _OfBrand = None) -> Response:
        """Return if an address gets mail, why not, and the stored evidence and decisions."""
        return _json_response(await _look_up(queries, key, address, brand))


def _add_suppress_route(
    routes: APIRouter, caller: Any, queries: SuppressionQueries, commands: RecordedCommands
) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.post(
        "/suppressions",
        summary="Suppress an address",
        **_route_openapi("SuppressionRequest", "SuppressionDecisionResponse", 201, 202),
    )
    async def suppress(request: Request, key: Caller) -> Response:
        """Suppress an address. 201, or 200 if it already was; 202 if it is durable but not yet in force."""
        wanted = decode_body(_decode_suppression, await read_body(request, BODY_MAX_BYTES))
        command = _command(key, wanted.brand, wanted.reason, wanted.note)
        hashed = address_hash(queries, wanted.address)
        try:
            async with commands.recorded(key, suppress_change(command, hashed)) as handler:
                is_new, in_force = await handler.suppress(command, hashed)
        except LogUnavailable:
            return unavailable_response(_NOT_CONFIRMED)
        decision = SuppressionDecisionResponse(address_hash=hashed.hex(), brand=wanted.brand, in_force=in_force)
        return _json_response(decision, 202 if not in_force else 201 if is_new else 200)


def _add_lift_route(routes: APIRouter, caller: Any, queries: SuppressionQueries, commands: RecordedCommands) -> None:
    Caller = Annotated[ApiKey, caller]  # noqa: N806 - a type

    @routes.delete(
        "/suppressions/{address:path}",
        summary="Lift a suppression",
        **_route_openapi(None, "SuppressionDecisionResponse", 202),
    )
    async def lift(address: _InPath, key: Caller, brand: _ForBrand) -> Response:
        """Lift a suppression: the address gets mail until it bounces, complains or unsubscribes again."""
        hashes, command = address_hashes(queries, address), _command(key, brand)
        try:
            change = await commands.handler.lift_change(command, hashes)
            async with commands.recorded(key, change) as handler:
                in_force = await handler.lift(command, hashes)
        except NotFound as error:
            raise HttpProblem(404, str(error), "address") from None
        except LogUnavailable:
            return unavailable_response(_NOT_CONFIRMED)
        return _json_response(
            SuppressionDecisionResponse(address_hash=hashes.hash.hex(), brand=brand, in_force=in_force),
            200 if in_force else 202,
        )


async def _look_up(queries: SuppressionQueries, key: ApiKey, name: str, brand: str | None) -> views.AddressView:
    """Return an address's view, for one brand or for all; `name` is the address or its hash."""
    hashes = address_hashes(queries, name)
    stored_brand = _brand(key, brand)
    if stored_brand is None:
        return views.address_view(hashes.hash, await queries.of_address(key.tenant.tenant, hashes))
    lookup = SuppressionLookup((key.tenant.tenant, stored_brand, hashes.hash), hashes.old)
    return views.address_view(hashes.hash, await queries.look_up([lookup]))


async def _with_first_line(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Read the first line before the response starts, so that a failing query is answered by an error; return all."""
    first = await anext(lines, "")

    async def all_lines() -> AsyncIterator[str]:
        yield first
        async for line in lines:
            yield line

    return all_lines()


def _command(key: ApiKey, brand: str, reason: SuppressionReason | None = None, note: str = "") -> SuppressionCommand:
    """Return the command, given by the request's API key, named as in `mailfold keys list`.

    Raise HttpProblem 403 for a brand for which the key must not be used.
    """
    require_brand(key, brand)
    return SuppressionCommand(tenant=key.tenant.tenant, brand=brand, by=f"api {key.name}", reason=reason, note=note)


def _brand(key: ApiKey, brand: str | None) -> str | None:
    """Return the brand to read, as it is stored; None for all. Raise HttpProblem 403 for one that the key must not."""
    if brand is not None:
        require_brand(key, brand)
    wanted = brand or key.limits.brand
    return storable_text(wanted) if wanted else None


def _of_allowed_brand(key: ApiKey, lines: Iterable[ImportLine]) -> Iterator[ImportLine]:
    """Yield the lines of an import; reject those that name a brand for which the key must not be used."""
    for line in lines:
        if isinstance(line, RejectedLine) or not line.brand or key.may_use_brand(line.brand):
            yield line
        else:
            yield RejectedLine(line.line, other_brand_error(key))


def _json_response(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _route_openapi(body: str | None, response: str, *more_statuses: int) -> dict[str, Any]:
    """Return the OpenAPI arguments of a route's decorator.

    `body` and `response` are schema names, or a media type of text; `more_statuses` answer like 200.
    """

    def media(name: str) -> dict[str, Any]:
        if "/" in name:
            return {kind: {"schema": {"type": "string"}} for kind in (name, "application/jsonl")}
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": media(body)}
    problem = {"description": "What is wrong and where.", "content": _PROBLEM}
    success = {"description": "Success.", "content": media(response)}
    problems: Sequence[int] = (400, 401, 404, 408, 413, 415, 503)
    return {
        "openapi_extra": extra,
        "response_class": Response,
        "responses": dict.fromkeys((200, *more_statuses), success) | dict.fromkeys(problems, problem),
    }
