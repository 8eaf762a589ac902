"""`/templates`: a tenant's texts in, versions on the log; what they would say, out."""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from msgspec import Meta

from pipeline.admin import Tenant
from pipeline.admin.templates import push
from pipeline.content import template_source
from pipeline.content import templates as content
from pipeline.content.localizations import Localized
from pipeline.errors import LogUnavailable
from pipeline.gateway.problems import Problem, unavailable
from pipeline.gateway.request_body import decoded, read_body
from pipeline.gateway.state import World
from projections import templates
from topics.record import Millis
from topics.templates import TEMPLATE_MAX, Template

BODY_MAX: Final = 4 * TEMPLATE_MAX
"""JSON may write a character as six."""

MAX_TEMPLATES_AT_ONCE: Final = 2
"""Templates that are compiled or rendered at the same time; the others wait."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rendering is asked with."""

    language: str = ""
    variables: Annotated[dict[str, Any], Meta(description="The values to fill in")] = {}
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a template says."""

    subject: str
    html: str
    text: str
    language: str
    version: int


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """A push's answer."""

    id: str
    name: str
    version: int
    hash: str
    usable: Annotated[bool, Meta(description="False: it is durable, and can be used as soon as it is projected")]


_PROBLEM: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_wanted: Final = msgspec.json.Decoder(Wanted).decode
TYPES: Final = (template_source.Draft, template_source.Shown, Wanted, Said, Pushed)
_Version = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The newest, if none is given.")]


def router(world: World) -> APIRouter:
    """The templates' surface."""
    routes = APIRouter(tags=["templates"])
    Caller = Annotated[Tenant, Depends(world.authenticate)]  # noqa: N806 - a type
    compiling = asyncio.Semaphore(MAX_TEMPLATES_AT_ONCE)

    @routes.put("/templates/{name}", summary="Push a template", **described("Draft", "Pushed"))
    async def push_template(name: str, request: Request, tenant: Caller) -> Response:
        """A new version, unless the newest says the same. What can't be compiled is refused, with the line."""
        body = await read_body(request, BODY_MAX)
        async with compiling:
            draft = await asyncio.to_thread(template_source.read, tenant.tenant, name, body)
        return await push_draft(world, draft)

    @routes.get("/templates", summary="List templates", **described(None, None))
    async def list_templates(tenant: Caller) -> Response:
        """Each template's newest version."""
        async with world.rt.pool.connection() as connection:
            return as_json(await templates.list_templates(connection, tenant.tenant))

    @routes.get("/templates/{name}", summary="Show a template", **described(None, "Shown"))
    async def show_template(name: str, tenant: Caller, version: _Version = None) -> Response:
        """By id, name or hash."""
        return as_json(template_source.shown(await find(world, tenant.tenant, name, version)))

    @routes.post("/templates/{name}/render", summary="Render a template", **described("Wanted", "Said"))
    async def render_template(name: str, request: Request, tenant: Caller) -> Response:
        """What it would say; nothing is sent."""
        wanted = decoded(_wanted, await read_body(request, BODY_MAX) or b"{}")
        template = await find(world, tenant.tenant, name, wanted.version)
        found = await localizations_for(world, template)
        async with compiling:
            said = await asyncio.to_thread(_said, template, wanted, found, world.rt.clock())
        return as_json(said)

    return routes


async def push_draft(world: World, draft: Template) -> Response:
    """Return a push's answer, once its record is on the log."""
    try:
        made, usable = await push(world.rt, world.log, draft)
    except LogUnavailable:
        return unavailable("the log did not confirm it in time; push it again")
    pushed = Pushed(id=made.template_id, name=made.name, version=made.version, hash=made.hash, usable=usable)
    return as_json(pushed, 200 if usable else 202)


async def find(world: World, tenant: str, name: str, version: int | None = None) -> Template:
    """A tenant's template by id, name or hash. Raises Problem 404."""
    async with world.rt.pool.connection() as connection:
        found = await templates.get_template(connection, tenant, name, version)
    if found is None:
        raise Problem(404, "no such template, or no such version of it", "name")
    return found


async def localizations_for(world: World, template: Template) -> Template | None:
    """Return the tenant's localizations, if the template names any."""
    if not content.is_localized(template):
        return None
    async with world.rt.pool.connection() as connection:
        return await templates.get_localizations(connection, template.tenant)


def _said(template: Template, wanted: Wanted, found: Template | None, now: Millis) -> Said:
    localize = Localized(found, wanted.language)
    said = content.render(template, wanted.language, wanted.variables, now=now, localize=localize)
    language, version = said.ref.language, said.ref.version
    return Said(subject=said.subject, html=said.html, text=said.text, language=language, version=version)


def as_json(value: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def described(body: str | None, answer: str | None) -> dict[str, Any]:
    """Return what OpenAPI says of a route; ``body``, ``answer``: names of types of this surface."""

    def media(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/Template{name}"}}}

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
