"""`/templates`: a tenant's texts in, versions on the log; what they would say, out."""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from msgspec import Meta

from pipeline.admin import Tenant
from pipeline.admin.templates import push_template
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
"""JSON may write a character as six."""

MAX_CONCURRENT_TEMPLATES: Final = 2
"""Templates that are compiled or rendered at the same time; the others wait."""


class TemplateRenderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rendering is asked with."""

    language: str = ""
    variables: Annotated[dict[str, Any], Meta(description="The values to fill in")] = {}
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class TemplateRenderResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a template says."""

    subject: str
    html: str
    text: str
    language: str
    version: int


class TemplatePushResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A push's answer."""

    id: str
    name: str
    version: int
    hash: str
    usable: Annotated[bool, Meta(description="False: it is durable, and can be used as soon as it is projected")]


_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_decode_render_request: Final = msgspec.json.Decoder(TemplateRenderRequest).decode
OPENAPI_TYPES: Final = (
    template_source.TemplateDraft,
    template_source.TemplateView,
    TemplateRenderRequest,
    TemplateRenderResponse,
    TemplatePushResponse,
)
_Version = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The newest, if none is given.")]


def router(world: GatewayState) -> APIRouter:
    """The templates' surface."""
    routes = APIRouter(tags=["templates"])
    Caller = Annotated[Tenant, Depends(world.authenticate)]  # noqa: N806 - a type
    compiling = asyncio.Semaphore(MAX_CONCURRENT_TEMPLATES)

    push_openapi = route_openapi("TemplateDraft", "TemplatePushResponse")
    render_openapi = route_openapi("TemplateRenderRequest", "TemplateRenderResponse")

    @routes.put("/templates/{name}", summary="Push a template", **push_openapi)
    async def push_template(name: str, request: Request, tenant: Caller) -> Response:
        """A new version, unless the newest says the same. What can't be compiled is refused, with the line."""
        body = await read_body(request, BODY_MAX_BYTES)
        async with compiling:
            draft = await asyncio.to_thread(template_source.parse_draft, tenant.tenant, name, body)
        return await push_draft(world, draft)

    @routes.get("/templates", summary="List templates", **route_openapi(None, None))
    async def list_templates(tenant: Caller) -> Response:
        """Each template's newest version."""
        async with world.runtime.pool.connection() as connection:
            return json_response(await templates.list_templates(connection, tenant.tenant))

    @routes.get("/templates/{name}", summary="Show a template", **route_openapi(None, "TemplateView"))
    async def show_template(name: str, tenant: Caller, version: _Version = None) -> Response:
        """By id, name or hash."""
        return json_response(template_source.template_view(await find_template(world, tenant.tenant, name, version)))

    @routes.post("/templates/{name}/render", summary="Render a template", **render_openapi)
    async def render_template(name: str, request: Request, tenant: Caller) -> Response:
        """What it would say; nothing is sent."""
        wanted = decode_body(_decode_render_request, await read_body(request, BODY_MAX_BYTES) or b"{}")
        template = await find_template(world, tenant.tenant, name, wanted.version)
        found = await localizations_for(world, template)
        async with compiling:
            said = await asyncio.to_thread(_said, template, wanted, found, world.runtime.clock())
        return json_response(said)

    return routes


async def push_draft(world: GatewayState, draft: Template) -> Response:
    """Return a push's answer, once its record is on the log."""
    try:
        made, usable = await push_template(world.runtime, world.log, draft)
    except LogUnavailable:
        return unavailable_response("the log did not confirm it in time; push it again")
    pushed = TemplatePushResponse(
        id=made.template_id, name=made.name, version=made.version, hash=made.hash, usable=usable
    )
    return json_response(pushed, 200 if usable else 202)


async def find_template(world: GatewayState, tenant: str, name: str, version: int | None = None) -> Template:
    """A tenant's template by id, name or hash. Raises Problem 404."""
    async with world.runtime.pool.connection() as connection:
        found = await templates.get_template(connection, tenant, name, version)
    if found is None:
        raise HttpProblem(404, "no such template, or no such version of it", "name")
    return found


async def localizations_for(world: GatewayState, template: Template) -> Template | None:
    """Return the tenant's localizations, if the template names any."""
    if not content.is_localized(template):
        return None
    async with world.runtime.pool.connection() as connection:
        return await templates.get_localizations(connection, template.tenant)


def _said(
    template: Template, wanted: TemplateRenderRequest, found: Template | None, now: Millis
) -> TemplateRenderResponse:
    localize = Localizer(found, wanted.language)
    said = content.render_template(template, wanted.language, wanted.variables, now=now, localize=localize)
    language, version = said.ref.language, said.ref.version
    return TemplateRenderResponse(
        subject=said.subject, html=said.html, text=said.text, language=language, version=version
    )


def json_response(value: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def route_openapi(body: str | None, answer: str | None) -> dict[str, Any]:
    """Return what OpenAPI says of a route; ``body``, ``answer``: names of types of this surface."""

    def media(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    problem = {"description": "What is wrong, and where.", "content": _PROBLEM}
    extra: dict[str, Any] = {"security": [{"ApiKey": []}]}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": media(body)}
    found: dict[str, Any] = {"description": "As asked."} | ({} if answer is None else {"content": media(answer)})
    return {
        "openapi_extra": extra,
        "response_class": Response,
        "responses": {200: found, **dict.fromkeys((400, 401, 404, 413, 503), problem)},
    }
