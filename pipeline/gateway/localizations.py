"""Serve `/localizations`: a tenant pushes and reads the set of texts that its templates name by key.

The application includes its router.
"""

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import ApiKey
from pipeline.content import localizations
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.request_body import read_body
from pipeline.gateway.routes.templates import json_response, push_draft, route_openapi
from pipeline.gateway.state import GatewayState
from projections import templates
from topics.templates import LOCALIZATIONS_MAX_BYTES

BODY_MAX_BYTES: Final = 4 * LOCALIZATIONS_MAX_BYTES
"""More than the set itself may have, because JSON may encode a character in six bytes; the parsed set is measured."""
OPENAPI_TYPES: Final = (localizations.LocalizationSet, localizations.LocalizationSetView)


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/localizations`."""
    routes = APIRouter(tags=["templates"])
    Caller = Annotated[ApiKey, Depends(state.authenticate)]  # noqa: N806 - a type

    @routes.put(
        "/localizations", summary="Push localizations", **route_openapi("LocalizationSet", "TemplatePushResponse")
    )
    async def push_localizations(request: Request, key: Caller) -> Response:
        """Replace the whole set by the one in the body. Templates name its texts as `{{key,$content.name}}`."""
        body = await read_body(request, BODY_MAX_BYTES)
        draft = await asyncio.to_thread(localizations.parse_draft, key.tenant.tenant, body)
        return await push_draft(state, key, draft)

    @routes.get("/localizations", summary="Show localizations", **route_openapi(None, "LocalizationSetView"))
    async def show_localizations(key: Caller) -> Response:
        """Return the newest version."""
        async with state.runtime.pool.connection() as connection:
            newest = await templates.get_localizations(connection, key.tenant.tenant)
        if newest is None:
            raise HttpProblem(404, "no localizations were pushed")
        return json_response(localizations.localization_set_view(newest))

    return routes
