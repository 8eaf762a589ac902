"""Describe Fast Track's API in OpenAPI, and add the schemas of all our own types to the document.

The application installs the schemas; Fast Track's routes use its description.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI

from pipeline.admin import KeyScope
from pipeline.dialects import fasttrack
from pipeline.gateway.openapi import tracking
from pipeline.gateway.openapi.api_v1 import PROBLEM_DETAILS
from pipeline.gateway.route_scopes import scopes_of_operation

_REF: Final = "#/components/schemas/{name}"

MESSAGE_EXAMPLE: Final[dict[str, Any]] = {
    "activity": {
        "id": "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b11",
        "brand_id": 12,
        "user_id": "987654",
        "internal_user_id": 4711,
        "activity_id": 31337,
        "action_group_id": 205,
        "trigger_hash": "b1946ac92492d2347c6235b4d2611184",
        "action_id": 8,
    },
    "subject": "Welcome, Anna",
    "content": '<p>Hello Anna, <a href="https://example.com/start">start here</a>.</p>',
    "amp_content": "<!doctype html><html ⚡4email data-css-strict><head></head><body>Hello Anna</body></html>",
    "email": "anna@example.com",
    "sender_name": "Example",
    "sender_address": "news@example.com",
    "replyto_address": "support@example.com",
}
ANSWER_EXAMPLE: Final[dict[str, Any]] = {
    "successful": [{"id": "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b11", "email_id": "0e7c8f0a-6d5e-5b1c-9a43-5b0f2f6d9e11"}],
    "failed": [{"id": "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b12", "error": "[1].activity.brand_id: expected int, got str"}],
    "fatal": [{"id": "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b13", "error": "[2]: over the batch maximum"}],
}

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error", "where"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong."},
        "where": {"type": "string", "description": "A path into the request, a header or a position in the body."},
    },
}

BATCH_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error", "code", "where"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong."},
        "code": {"type": "integer", "description": "The HTTP status."},
        "where": {"type": "string", "description": "A header, or a position in the body."},
    },
}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _batch_error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _reference("BatchError")}}}


_MESSAGES: Final = {"type": "array", "items": _reference("FastTrackMessage")}
_WRAPPED: Final = {"type": "object", "description": "An object with one array of objects, under any name."}


FASTTRACK_BATCH_OPENAPI: Final[dict[str, Any]] = {
    "status_code": 200,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"oneOf": [_MESSAGES, _WRAPPED]},
                    "example": [MESSAGE_EXAMPLE],
                }
            },
        },
    },
    "responses": {
        200: {
            "description": "The outcome of each message; all three arrays are always present.",
            "content": {
                "application/json": {"schema": _reference("FastTrackBatchResponse"), "example": ANSWER_EXAMPLE}
            },
        },
        400: _batch_error("Not a JSON array, bare or as the only array of an object: what is wrong and where."),
        401: _batch_error("No API key, or one that is unknown, revoked or expired."),
        413: _batch_error("Over MAILFOLD_BODY_MAX bytes, zipped or unzipped."),
        415: _batch_error("A content encoding other than gzip."),
        503: _batch_error("No message could be accepted; the batch may safely be sent again."),
    },
}


def install_schemas(app: FastAPI, types: Sequence[type]) -> None:
    """Add the schemas of our own types, and the tracking paths, to the document that the framework generates.

    A component has its class's name; no two classes of the product share one.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _describe_scopes(document["paths"])
            document["paths"] |= tracking.PATHS
            components = document.setdefault("components", {})
            components["schemas"] = _schemas(types) | components.get("schemas", {})
            components["securitySchemes"] = {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            }
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as the framework's documentation recommends


def _describe_scopes(paths: dict[str, Any]) -> None:
    """Add to each operation that needs an API key the scopes, and the response to a key without them."""
    for path, methods in paths.items():
        for method, operation in methods.items():
            if scopes := scopes_of_operation(method, path):
                operation["security"] = [{"ApiKey": list(scopes)}, {"Bearer": list(scopes)}]
                responses = operation["responses"]
                suspension = " Or its tenant is suspended." if KeyScope.SEND in scopes else ""
                responses["403"] = {
                    **responses["401"],
                    "description": f"The API key lacks a scope (it needs {' and '.join(scopes)}), or must not be used "
                    f"for this brand or from this address.{suspension}",
                }


def _schemas(types: Sequence[type]) -> dict[str, Any]:
    fast_track = (fasttrack.FastTrackMessage, fasttrack.FastTrackActivity, fasttrack.FastTrackBatchResponse)
    _, components = msgspec.json.schema_components((*fast_track, *types), ref_template=_REF)
    # The field is typed as raw JSON, which has no schema.
    components["FastTrackMessage"]["properties"]["activity"] = _reference("FastTrackActivity")
    components["FastTrackActivity"]["additionalProperties"] = True
    own = {"Problem": PROBLEM, "BatchError": BATCH_ERROR, "ProblemDetails": PROBLEM_DETAILS}
    return {**json.loads(json.dumps(components)), **own}
