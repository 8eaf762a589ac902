"""Render the OpenAPI document as one HTML page at `/docs`, without scripts and external files, so it works offline.

The application installs it.
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI, Response

from pipeline.runtime.web.style import STYLE, STYLE_CSP_SOURCE

_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style}</style></head>'
    '<body><main class="content"><h1>{title}</h1><p>{about}</p><p>For machines: '
    '<a href="/openapi.json">openapi.json</a>.</p>{body}</main></body></html>'
)
CSP: Final = f"default-src 'none'; style-src {STYLE_CSP_SOURCE}; base-uri 'none'; form-action 'none'"


def install_docs_page(app: FastAPI) -> None:
    """Add the route `/docs`."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = render(app.openapi())
        return Response(page, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": CSP})


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    operations = "".join(
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "head"
    )
    schemas = "".join(
        f"<details><summary><code>{html.escape(name)}</code></summary>{_json(schema)}</details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    info = document["info"]
    body = f"{operations}<h2>Types</h2>{schemas}"
    return _PAGE.format(
        title=html.escape(info["title"]), about=html.escape(info["description"]), style=STYLE, body=body
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    return (
        f'<h2><b class="badge">{method.upper()}</b> <code>{html.escape(path)}</code></h2>'
        f"<p><strong>{_prose(operation.get('summary', ''))}.</strong> "
        f"{_prose(operation.get('description', ''))}</p>" + "".join(_operation_parts(operation))
    )


def _operation_parts(operation: dict[str, Any]) -> Iterator[str]:
    """Yield the HTML of an operation's parameters, request and responses."""
    if parameters := operation.get("parameters"):
        yield "<h3>Parameters</h3>" + _table((p["name"], p.get("description", "")) for p in parameters)
    for media in operation.get("requestBody", {}).get("content", {}).values():
        yield "<h3>Request</h3>" + _json(media.get("example", media.get("schema")))
    responses = operation.get("responses", {})
    yield "<h3>Responses</h3>" + _table((status, response["description"]) for status, response in responses.items())
    for response in responses.values():
        for media in response.get("content", {}).values():
            if "example" in media:
                yield _json(media["example"])


def _table(rows: Any) -> str:
    cells = (
        f"<tr><td><code>{html.escape(str(name))}</code></td><td>{_prose(str(description))}</td></tr>"
        for name, description in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _prose(text: str) -> str:
    """Return text as HTML: escaped, with text between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _json(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
