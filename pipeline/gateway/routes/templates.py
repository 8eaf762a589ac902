"""Serve `/templates`: a tenant pushes, lists, shows and renders templates.

The application includes its router; other routes read templates with `find_template` and `localizations_for`.
"""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from msgspec import Meta

from pipeline.admin import ApiKey
from pipeline.admin.templates import push_template, template_change
from pipeline.content import template_source
from pipeline.content import templates as content
from pipeline.content.localizations import Localizer
from pipeline.errors import LogUnavailable
from pipeline.gateway.problems import HttpProblem, unavailable_response
from pipeline.gateway.request_body import decode_body, read_body
from pipeline.gateway.state import GatewayState
from projections import templates
from topics.record import Millis
from topics.templates import TEMPLATE_MAX_BYTES, Template

BODY_MAX_BYTES: Final = 4 * TEMPLATE_MAX_BYTES
"""More than a template may have, because JSON may encode a character in six bytes."""

MAX_CONCURRENT_TEMPLATES: Final = 2
"""Number of templates that are compiled or rendered at the same time; other requests wait."""


class TemplateRenderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The language, variables and version to render a template with."""

    language: str = ""
    variables: Annotated[dict[str, Any], Meta(description="The values to fill in")] = {}
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class TemplateRenderResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A rendered template."""

    subject: str
    html: str
    text: str
    language: str
    version: int


class TemplatePushResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The stored version of a pushed template or set of localizations."""

    id: str
    name: str
    version: int
    hash: str
    usable: Annotated[bool, Meta(description="False: it is durable, and can be used once it is projected")]


_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_decode_render_request: Final = msgspec.json.Decoder(TemplateRenderRequest).decode
OPENAPI_TYPES: Final = (
    template_source.TemplateDraft,
    template_source.TemplateView,
    TemplateRenderRequest,
    TemplateRenderResponse,
    TemplatePushResponse,
)
_Version = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Default: the newest.")]


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/templates`."""
    routes = APIRouter(tags=["templates"])
    Caller = Annotated[ApiKey, Depends(state.authenticate)]  # noqa: N806 - a type
    render_slots = asyncio.Semaphore(MAX_CONCURRENT_TEMPLATES)

    push_openapi = route_openapi("TemplateDraft", "TemplatePushResponse")
    render_openapi = route_openapi("TemplateRenderRequest", "TemplateRenderResponse")

    @routes.put("/templates/{name}", summary="Push a template", **push_openapi)
    async def push_template(name: str, request: Request, key: Caller) -> Response:
        """Store a new version, unless the newest is equal. Refuse one that can't be compiled, and say the line."""
        body = await read_body(request, BODY_MAX_BYTES)
        async with render_slots:
            draft = await asyncio.to_thread(template_source.parse_draft, key.tenant.tenant, name, body)
        return await push_draft(state, key, draft)

    @routes.get("/templates", summary="List templates", **route_openapi(None, None))
    async def list_templates(key: Caller) -> Response:
        """Return the newest version of each template."""
        async with state.runtime.pool.connection() as connection:
            return json_response(await templates.list_templates(connection, key.tenant.tenant))

    @routes.get("/templates/{name}", summary="Show a template", **route_openapi(None, "TemplateView"))
    async def show_template(name: str, key: Caller, version: _Version = None) -> Response:
        """Return a template by its id, name or hash."""
        template = await find_template(state, key.tenant.tenant, name, version)
        return json_response(template_source.template_view(template))

    @routes.post("/templates/{name}/render", summary="Render a template", **render_openapi)
    async def render_template(name: str, request: Request, key: Caller) -> Response:
        """Render a template with the given variables; nothing is sent."""
        render_request = decode_body(_decode_render_request, await read_body(request, BODY_MAX_BYTES) or b"{}")
        template = await find_template(state, key.tenant.tenant, name, render_request.version)
        localizations = await localizations_for(state, template)
        async with render_slots:
            rendered = await asyncio.to_thread(_render, template, render_request, localizations, state.runtime.clock())
        return json_response(rendered)

    return routes


async def push_draft(state: GatewayState, key: ApiKey, draft: Template) -> Response:
    """Append a draft to the log as the next version; return its 200, 202 (not yet projected) or 503 response."""
    change = await template_change(state.runtime, draft)
    try:
        async with state.actions_of(key).recorded(change):
            version, usable = await push_template(state.runtime, state.log, draft)
    except LogUnavailable:
        return unavailable_response("the log did not confirm it in time; push it again")
    pushed = TemplatePushResponse(
        id=version.template_id, name=version.name, version=version.version, hash=version.hash, usable=usable
    )
    return json_response(pushed, 200 if usable else 202)


async def find_template(state: GatewayState, tenant: str, name: str, version: int | None = None) -> Template:
    """Return a tenant's template by id, name or hash; the newest version if none is given. Raises HttpProblem 404."""
    async with state.runtime.pool.connection() as connection:
        template = await templates.get_template(connection, tenant, name, version)
    if template is None:
        raise HttpProblem(404, "no such template, or no such version of it", "name")
    return template


async def localizations_for(state: GatewayState, template: Template) -> Template | None:
    """Return the tenant's newest localizations, or None if the template names none or none were pushed."""
    if not content.is_localized(template):
        return None
    async with state.runtime.pool.connection() as connection:
        return await templates.get_localizations(connection, template.tenant)


def _render(
    template: Template, request: TemplateRenderRequest, localizations: Template | None, now: Millis
) -> TemplateRenderResponse:
    localize = Localizer(localizations, request.language)
    rendered = content.render_template(template, request.language, request.variables, now=now, localize=localize)
    return TemplateRenderResponse(
        subject=rendered.subject,
        html=rendered.html,
        text=rendered.text,
        language=rendered.ref.language,
        version=rendered.ref.version,
    )


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with the value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def route_openapi(body: str | None, response: str | None) -> dict[str, Any]:
    """Return the OpenAPI arguments of a route's decorator; `body` and `response` are names of schemas."""

    def media(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    problem = {"description": "What is wrong and where.", "content": _PROBLEM}
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": media(body)}
    success: dict[str, Any] = {"description": "Success."}
    if response is not None:
        success["content"] = media(response)
    return {
        "openapi_extra": extra,
        "response_class": Response,
        "responses": {200: success, **dict.fromkeys((400, 401, 404, 413, 503), problem)},
    }
