"""Describe the tracking paths in OpenAPI; the middleware serves them before the framework, which can't know them."""

from typing import Any, Final

_TOKEN: Final[dict[str, Any]] = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "Signed by Mailfold; identifies the email and contains no address.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
}


def _get(summary: str, description: str, name: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "get": {
            "tags": ["tracking"],
            "summary": summary,
            "description": description,
            "operationId": name,
            "parameters": [_TOKEN],
            "responses": responses,
        }
    }


PATHS: Final[dict[str, Any]] = {
    "/o/{token}.gif": _get(
        "Tracking pixel",
        "Answers, then records an open. An invalid token gets the same picture. HEAD records nothing.",
        "pixel",
        {"200": {"description": "1×1, transparent.", "content": {"image/gif": {}}}},
    ),
    "/c/{token}": _get(
        "Tracked link",
        "Redirects to the signed target, then records a click. HEAD records nothing.",
        "click",
        {
            "302": {
                "description": "A redirect to the target.",
                "headers": {"Location": {"schema": {"type": "string"}}},
            },
            "404": {
                "description": "The token is invalid.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    ),
    "/t/{token}": _get(
        "Hidden link",
        "The target of a link that people can't see: clients that follow it are labelled as machines.",
        "trap",
        {"200": {"description": "A page without information.", "content": {"text/html": {}}}},
    ),
}
