"""Serve exports: ask for a file, see how far it is, download it, also in parts.

The application includes its router; :mod:`pipeline.exports.runner` makes the files.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import StreamingResponse
from msgspec import Meta

from pipeline.admin import ApiKey, KeyScope
from pipeline.dialects import api_v1, api_v1_query
from pipeline.errors import Refused
from pipeline.exports.request import SCHEMA_VERSION, ExportFormat, ExportKind, ExportRequest
from pipeline.exports.store import MAX_OPEN_EXPORTS, ExportStore, StoredExport
from pipeline.gateway.auth import require_scope
from pipeline.gateway.openapi import api_v1 as openapi
from pipeline.gateway.openapi import exports as openapi_exports
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import decode_body, read_body
from pipeline.gateway.routes.emails import EmailHistoryRoutes, email_query, json_response, masks_addresses
from pipeline.gateway.state import GatewayState
from pipeline.runtime.secrets.signing import canonical_address
from projections.columns import is_storable_id
from projections.email_cursor import EmailQuestion
from projections.history_queries import Connection
from topics.record import Millis

BODY_MAX_BYTES: Final = 20_000
RETRY_AFTER_S: Final = 5
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

_InPath = Annotated[str, Path(max_length=36, description="The export's id.", examples=[openapi.EMAIL_ID])]


class ExportCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file to make."""

    kind: Annotated[ExportKind, Meta(description="A line for each email, or for each fact of each email")] = (
        ExportKind.EMAILS
    )
    format: Annotated[ExportFormat, Meta(description="Compressed by gzip in any case")] = ExportFormat.CSV
    filter: Annotated[dict[str, Any], Meta(description="Filters of `GET /api/v1/emails`, by name")] = {}
    as_of: Annotated[str | int, Meta(description="The moment to show. Default, and at most: now")] = ""


class ExportResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An export and how far it is."""

    export_id: str
    state: Annotated[str, Meta(description="`pending`, `running`, `done`, `failed` or `expired`")]
    kind: str
    format: str
    as_of: Annotated[str, Meta(description="The moment that the file shows; empty after it expired")]
    schema_version: Annotated[int, Meta(description="Of the file's columns")]
    masks_addresses: bool
    emails: Annotated[int, Meta(description="Emails in the file so far")]
    rows: Annotated[int, Meta(description="Lines so far, without the CSV's header")]
    bytes: Annotated[int, Meta(description="Bytes so far, compressed")]
    checksum: Annotated[str, Meta(description="SHA-256 of the compressed file, when it is done")]
    error: Annotated[str, Meta(description="Why it failed, and what to do")]
    created_at: str
    finished_at: str | None
    expires_at: Annotated[str | None, Meta(description="Until when it can be downloaded")]
    download: Annotated[str | None, Meta(description="The file's path, when it is done")]


OPENAPI_TYPES: Final = (ExportCommand, ExportResponse)
_DECODE: Final = msgspec.json.Decoder(ExportCommand).decode


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/api/v1/exports`."""
    routes = APIRouter(tags=["exports"])
    store, emails = ExportStore(state.runtime.pool), EmailHistoryRoutes(state)
    Caller = Annotated[ApiKey, Depends(state.authenticate)]  # noqa: N806 - a type

    @routes.post("/api/v1/exports", status_code=202, **openapi_exports.CREATE)
    async def create_export(request: Request, key: Caller) -> Response:
        """Ask for a file of emails or of their timelines, as of one moment. It is made in the background.

        The same request gives the same file, byte for byte, whenever it is made.
        """
        command = decode_body(_DECODE, await read_body(request, BODY_MAX_BYTES))
        export = await _export_request(emails, request, key, command)
        export_id = state.runtime.new_id()
        if not await store.add(export_id, export):
            raise HttpProblem(429, f"{MAX_OPEN_EXPORTS} exports are not finished yet; wait for one", "", _retry())
        stored = await _find(store, key, export_id)
        response = json_response(_view(stored))
        response.status_code = 202
        response.headers["Location"] = f"/api/v1/exports/{export_id}"
        return response

    @routes.get("/api/v1/exports/{export_id}", **openapi_exports.SHOW)
    async def show_export(export_id: _InPath, key: Caller) -> Response:
        """Show how far an export is; when it is done, its checksum, and until when it can be downloaded."""
        return json_response(_view(await _find(store, key, export_id)))

    @routes.get("/api/v1/exports/{export_id}/download", **openapi_exports.DOWNLOAD)
    async def download_export(request: Request, export_id: _InPath, key: Caller) -> Response:
        """Download the file. An interrupted download goes on with `Range`."""
        export = await _find(store, key, export_id)
        if export.state == "expired":
            raise HttpProblem(410, "the file has expired; ask for the same export again", "path.export_id")
        if export.state != "done" or export.request is None:
            reason = f"it failed: {export.error}" if export.state == "failed" else f"it is {export.state}"
            raise HttpProblem(409, f"the file is not there: {reason}", "path.export_id", _retry())
        return _file_response(store, export, export.request, request.headers)

    return routes


async def _export_request(
    emails: EmailHistoryRoutes, request: Request, key: ApiKey, command: ExportCommand
) -> ExportRequest:
    """Return the export of a command as of a moment that is projected. Raise HttpProblem 403 and Refused."""
    parameters = api_v1_query.parameters_of_body(command.filter)
    asked = api_v1_query.parse_filter(key.tenant.tenant, parameters, canonical_address)
    if asked.recipient is not None:
        require_scope(key, KeyScope.HISTORY_ADDRESSES)
    query = email_query(key, EmailQuestion(filter=asked), None)

    async def read_nothing(_connection: Connection, _moment: Millis) -> None:
        """Read nothing but the moment."""

    as_of = api_v1_query.parse_time("as_of", str(command.as_of)) if command.as_of != "" else None
    moment, _ = await emails.read(request, read_nothing, as_of)
    return ExportRequest(
        tenant=query.tenant,
        as_of=moment,
        kind=command.kind,
        format=command.format,
        filter=query.filter,
        masks_addresses=masks_addresses(key),
    )


async def _find(store: ExportStore, key: ApiKey, export_id: str) -> StoredExport:
    """Return an export that the key may see. Raise HttpProblem 404, and 403 where it has addresses in clear."""
    name = export_id.lower()
    export = await store.find(key.tenant.tenant, name) if is_storable_id(name) else None
    if export is None:
        raise HttpProblem(404, "no export with this id", "path.export_id")
    if export.request is not None:
        if not export.request.masks_addresses:
            require_scope(key, KeyScope.HISTORY_ADDRESSES)
        email_query(key, EmailQuestion(filter=export.request.filter), None)
        if key.limits.brand and export.request.filter.brand_uuid is None:
            raise HttpProblem(404, "no export with this id", "path.export_id")
    return export


def _view(export: StoredExport) -> ExportResponse:
    request = export.request
    return ExportResponse(
        export_id=export.export_id,
        state=export.state,
        kind="" if request is None else request.kind.value,
        format="" if request is None else request.format.value,
        as_of="" if request is None else api_v1.rfc3339(request.as_of),
        schema_version=SCHEMA_VERSION,
        masks_addresses=request is None or request.masks_addresses,
        emails=export.emails,
        rows=export.rows,
        bytes=export.bytes,
        checksum=export.checksum,
        error=export.error,
        created_at=api_v1.rfc3339(export.created_at),
        finished_at=None if export.finished_at is None else api_v1.rfc3339(export.finished_at),
        expires_at=None if export.expires_at is None else api_v1.rfc3339(export.expires_at),
        download=f"/api/v1/exports/{export.export_id}/download" if export.state == "done" else None,
    )


def _file_response(
    store: ExportStore, export: StoredExport, request: ExportRequest, headers: Mapping[str, str]
) -> Response:
    """Return the file, or the part of it that the request asks for."""
    tag = f'"{export.checksum}"'
    own = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{request.file_name}"',
    }
    asked = headers.get("range", "")
    if not asked or headers.get("if-range", tag) != tag:
        first, last, status = 0, export.bytes - 1, 200
    else:
        first, last = parse_range(asked, export.bytes)
        status = 206
        own["Content-Range"] = f"bytes {first}-{last}/{export.bytes}"
    length = last - first + 1
    own["Content-Length"] = str(length)
    return StreamingResponse(
        store.read(export.export_id, first, length), status, media_type="application/gzip", headers=own
    )


def parse_range(text: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte of a range (RFC 9110 §14.1.2). Raise HttpProblem 416, Refused."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        raise Refused("one range of bytes can be sent, such as bytes=1000-", "Range")
    if match[1]:
        first, last = int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first > last:
        raise HttpProblem(416, "no such bytes in the file", "Range", {"Content-Range": f"bytes */{size}"})
    return first, last


def _retry() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}
