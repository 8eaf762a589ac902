"""What OpenAPI says of the paths that never reach the framework: the pixel, links and the trap."""

from typing import Any, Final

_TOKEN: Final[dict[str, Any]] = {
    "name": "token",
    "in": "path",
    "required": True,
    "description": "Signed by us; names the email, never an address.",
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
        "Answers first, then notes an open; a forged token gets the same picture. HEAD notes nothing.",
        "pixel",
        {"200": {"description": "1×1, transparent.", "content": {"image/gif": {}}}},
    ),
    "/c/{token}": _get(
        "Tracked link",
        "Leads on to the page that was signed, then notes a click. HEAD notes nothing.",
        "click",
        {
            "302": {"description": "The way on.", "headers": {"Location": {"schema": {"type": "string"}}}},
            "404": {
                "description": "The token is not ours.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    ),
    "/t/{token}": _get(
        "Hidden link",
        "Where a link leads that no human sees: who comes here follows whatever there is, and is labelled a machine.",
        "trap",
        {"200": {"description": "A page that says nothing.", "content": {"text/html": {}}}},
    ),
}
