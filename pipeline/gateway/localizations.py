"""`/localizations`: the texts that a tenant's templates name by key, pushed as one set and shown."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import Tenant
from pipeline.content import localizations
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import read_body
from pipeline.gateway.routes.templates import json_response, push_draft, route_openapi
from pipeline.gateway.state import GatewayState
from projections import templates
from topics.templates import LOCALIZATIONS_MAX_BYTES

BODY_MAX_BYTES: Final = 4 * LOCALIZATIONS_MAX_BYTES
"""JSON may write a character as six bytes, and the set is measured again when it is read."""
OPENAPI_TYPES: Final = (localizations.LocalizationSet, localizations.LocalizationSetView)


def router(world: GatewayState) -> APIRouter:
    """Return the localizations' surface."""
    routes = APIRouter(tags=["templates"])
    Caller = Annotated[Tenant, Depends(world.authenticate)]  # noqa: N806 - a type

    @routes.put(
        "/localizations", summary="Push localizations", **route_openapi("LocalizationSet", "TemplatePushResponse")
    )
    async def push_localizations(request: Request, tenant: Caller) -> Response:
        """All of them: what is pushed replaces what is there. Templates name them as `{{key,$content.name}}`."""
        body = await read_body(request, BODY_MAX_BYTES)
        return await push_draft(world, await asyncio.to_thread(localizations.parse_draft, tenant.tenant, body))

    @routes.get("/localizations", summary="Show localizations", **route_openapi(None, "LocalizationSetView"))
    async def show_localizations(tenant: Caller) -> Response:
        """The newest version."""
        async with world.runtime.pool.connection() as connection:
            found = await templates.get_localizations(connection, tenant.tenant)
        if found is None:
            raise HttpProblem(404, "no localizations were pushed")
        return json_response(localizations.localization_set_view(found))

    return routes
