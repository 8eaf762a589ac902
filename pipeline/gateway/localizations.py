"""`/localizations`: the texts that a tenant's templates name by key, pushed as one set and shown."""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import Tenant
from pipeline.content import localizations
from pipeline.gateway.problems import Problem
from pipeline.gateway.request_body import read_body
from pipeline.gateway.routes.templates import as_json, described, push_draft
from pipeline.gateway.state import World
from projections import templates
from topics.templates import LOCALIZATIONS_MAX

BODY_MAX_BYTES: Final = 4 * LOCALIZATIONS_MAX
"""JSON may write a character as six bytes, and the set is measured again when it is read."""
TYPES: Final = (localizations.LocalizationSet, localizations.ShownLocalizations)


def router(world: World) -> APIRouter:
    """Return the localizations' surface."""
    routes = APIRouter(tags=["templates"])
    Caller = Annotated[Tenant, Depends(world.authenticate)]  # noqa: N806 - a type

    @routes.put("/localizations", summary="Push localizations", **described("LocalizationSet", "Pushed"))
    async def push_localizations(request: Request, tenant: Caller) -> Response:
        """All of them: what is pushed replaces what is there. Templates name them as `{{key,$content.name}}`."""
        body = await read_body(request, BODY_MAX_BYTES)
        return await push_draft(world, await asyncio.to_thread(localizations.read, tenant.tenant, body))

    @routes.get("/localizations", summary="Show localizations", **described(None, "ShownLocalizations"))
    async def show_localizations(tenant: Caller) -> Response:
        """The newest version."""
        async with world.rt.pool.connection() as connection:
            found = await templates.get_localizations(connection, tenant.tenant)
        if found is None:
            raise Problem(404, "no localizations were pushed")
        return as_json(localizations.shown(found))

    return routes
