"""Describe exports in OpenAPI."""

from typing import Any, Final

from pipeline.gateway.openapi.api_v1 import EMAIL_ID, FILTER_PROPERTIES, problem

_EXPORT_EXAMPLE: Final[dict[str, Any]] = {
    "export_id": EMAIL_ID,
    "state": "done",
    "kind": "emails",
    "format": "csv",
    "as_of": "2026-11-27T10:00:00.000Z",
    "schema_version": 1,
    "masks_addresses": True,
    "emails": 120400,
    "rows": 120400,
    "bytes": 9120331,
    "checksum": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
    "error": "",
    "created_at": "2026-11-27T10:00:00.120Z",
    "finished_at": "2026-11-27T10:00:24.330Z",
    "expires_at": "2026-12-04T10:00:24.330Z",
    "download": f"/api/v1/exports/{EMAIL_ID}/download",
}
_COMMAND: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "kind": {
            "type": "string",
            "enum": ["emails", "timeline"],
            "description": "A line for each email, or for each fact of each email. Default: emails.",
        },
        "format": {
            "type": "string",
            "enum": ["csv", "ndjson"],
            "description": "Compressed by gzip in any case. Default: csv.",
        },
        "filter": {"type": "object", "additionalProperties": False, "properties": FILTER_PROPERTIES},
        "as_of": {"type": "string", "description": "The moment to show. Default, and at most: now."},
    },
}
_ANSWER: Final = {
    "application/json": {"schema": {"$ref": "#/components/schemas/ExportResponse"}, "example": _EXPORT_EXAMPLE}
}
_PROBLEMS: Final = {
    401: problem("No API key, or one that is unknown, revoked or expired."),
    503: problem("Postgres does not answer; the request may be sent again."),
}
_UNKNOWN: Final = problem("No export with this id.")

CREATE: Final[dict[str, Any]] = {
    "summary": "Ask for a file",
    "responses": {
        202: {"description": "It is being made.", "content": _ANSWER},
        400: problem("The body is invalid; `where` says what."),
        429: problem("Too many exports are not finished yet."),
        504: problem("The moment could not be read in time."),
    }
    | _PROBLEMS,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _COMMAND,
                    "example": {"kind": "emails", "format": "csv", "filter": {"activity_id": 31337}},
                }
            },
        }
    },
}
SHOW: Final[dict[str, Any]] = {
    "summary": "Show an export",
    "responses": {200: {"description": "Success.", "content": _ANSWER}, 404: _UNKNOWN} | _PROBLEMS,
}
_FILE: Final = {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}
DOWNLOAD: Final[dict[str, Any]] = {
    "summary": "Download the file",
    "responses": {
        200: {"description": "The file. `ETag` has its checksum.", "content": _FILE},
        206: {"description": "The bytes that `Range` names.", "content": _FILE},
        400: problem("`Range` names several ranges, or none."),
        404: _UNKNOWN,
        409: problem("The file is not there yet, or making it failed."),
        410: problem("The file has expired; ask for the same export again."),
        416: problem("The file has no such bytes."),
    }
    | _PROBLEMS,
    "openapi_extra": {
        "parameters": [
            {
                "name": "Range",
                "in": "header",
                "required": False,
                "description": "One range of bytes, such as `bytes=1000-`.",
                "schema": {"type": "string"},
            }
        ]
    },
}
