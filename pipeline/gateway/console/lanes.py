"""The page of lanes: what waits in each brand's queue, and pausing and resuming it."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.errors import NotFound
from pipeline.gateway.console.forms import ConsoleForm, read_form
from pipeline.gateway.console.rendering import see_other
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.operations import lanes
from pipeline.operations.dead_letters import QUEUES
from projections.pending_conversions import lane_of

PATH: Final = "/console/lanes"
MAX_SHOWN: Final = 500
DONE_TEXTS: Final = {
    "paused": "The lane is paused: its jobs wait, and use up no attempts.",
    "resumed": "The lane is resumed, and its breaker closed.",
}
QUEUE_TITLES: Final = {"dispatch": "Mail", "emit": "Conversions", "provider": "Providers"}


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the routes of lanes."""
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type
    pool = services.state.runtime.pool

    @routes.get(PATH)
    async def list_lanes(request: Request, viewer: Caller) -> Response:
        """List the lanes with work, a pause or an open breaker."""
        everything = await services.reader.sees_installation(viewer)
        shown = [
            lane
            for lane in await lanes.list_lanes(pool)
            if everything or (lane.queue in QUEUES and _is_own(viewer, lane.lane))
        ]
        return services.pages.page(
            "lanes.html",
            viewer,
            path=PATH,
            lanes=shown[:MAX_SHOWN],
            more=max(0, len(shown) - MAX_SHOWN),
            titles=QUEUE_TITLES,
            everything=everything,
            done=DONE_TEXTS.get(request.query_params.get("done", ""), ""),
        )

    _add_changing_routes(routes, services)


def _add_changing_routes(routes: APIRouter, services: ConsoleServices) -> None:
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type
    pool = services.state.runtime.pool

    @routes.post("/console/lanes/pause")
    async def pause_lane(request: Request, viewer: Caller) -> Response:
        """Pause a lane."""
        form = await read_form(request)
        queue, lane = await _lane(services, viewer, form)
        if not await lanes.lane_exists(pool, queue, lane):
            raise NotFound(f"There is no lane {lane[:200]} here.")
        reason = form.reason()
        change = await lanes.lane_change(pool, "lanes.pause", queue, lane, reason)
        async with services.actions_of(viewer).recorded(change):
            await lanes.lane_store(pool, queue).pause_lane(lane, f"{reason} ({viewer.actor})")
        return see_other(f"{PATH}?done=paused")

    @routes.post("/console/lanes/resume")
    async def resume_lane(request: Request, viewer: Caller) -> Response:
        """Resume a lane."""
        form = await read_form(request)
        queue, lane = await _lane(services, viewer, form)
        reason = form.reason()
        change = await lanes.lane_change(pool, "lanes.resume", queue, lane, reason)
        if change.before is None:
            raise NotFound(f"The lane {lane} is neither paused nor broken.")
        async with services.actions_of(viewer).recorded(change):
            if not await lanes.lane_store(pool, queue).resume_lanes([lane]):
                raise NotFound(f"The lane {lane} is neither paused nor broken.")
        return see_other(f"{PATH}?done=resumed")


async def _lane(services: ConsoleServices, viewer: Viewer, form: ConsoleForm) -> tuple[str, str]:
    """Return the queue and the lane of a form. Raise NotFound for one that the viewer may not see."""
    queue, lane = form.get("queue"), form.get("lane")
    is_own = queue in QUEUES and _is_own(viewer, lane)
    if not (queue and lane) or not (is_own or await services.reader.sees_installation(viewer)):
        raise NotFound(f"There is no lane {lane[:200]} here.")
    lanes.check_queue(queue)
    return queue, lane


def _is_own(viewer: Viewer, lane: str) -> bool:
    return lane.startswith(lane_of(viewer.tenant, ""))
