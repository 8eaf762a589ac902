"""`mailfold lanes list|pause|resume` and `mailfold destinations pause|resume`: pause and resume a brand's jobs."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from pipeline.admin import fetch_rows
from pipeline.admin.actions import ActionRecorder
from pipeline.cli.admin import BrandOption, TenantOption, destinations
from pipeline.cli.context import ReasonOption, cell, console, run_change, run_with_pool, table
from pipeline.errors import NotFound
from pipeline.operations import lanes as operations
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import Pool
from projections.pending_conversions import lane_of

app = typer.Typer(help="Each brand's lane in a queue: its jobs, pause and breaker.", no_args_is_help=True)

QueueArgument = Annotated[
    str,
    typer.Argument(
        help="`dispatch` (mail), `emit` (conversions), or `provider`: one of the several of a brand.", metavar="QUEUE"
    ),
]
LaneArgument = Annotated[
    str, typer.Argument(help="`tenant/brand`, or the provider, as `lanes list` shows it.", metavar="LANE")
]
PauseReasonOption = Annotated[str, typer.Option("--reason", help="The reason, shown in lists.")]
DEFAULT_PAUSE_REASON: Final = "paused by an operator"


@app.command("list")
def list_lanes() -> None:
    """Show every lane with work, a pause or an open breaker."""
    listing = table("queue", "lane", "waiting", "claimed", "paused since", "reason", "breaker open until")
    for row in run_with_pool(lambda pool, _: operations.list_lanes(pool)):
        listing.add_row(*map(cell, row))
    console().print(listing)


@app.command("pause")
def pause(queue: QueueArgument, lane: LaneArgument, reason: PauseReasonOption = DEFAULT_PAUSE_REASON) -> None:
    """Pause a lane: its jobs wait, and use up no attempts."""
    operations.check_queue(queue)
    run_change(lambda rt, actions: _pause(rt, actions, queue, [lane], reason))
    console().print(f"{queue} {lane} is paused", markup=False)


@app.command("resume")
def resume(queue: QueueArgument, lane: LaneArgument, reason: ReasonOption = "") -> None:
    """Resume a lane, and close its breaker."""
    operations.check_queue(queue)
    if not run_change(lambda rt, actions: _resume(rt, actions, queue, [lane], reason)):
        raise NotFound(f"{queue} has no lane {lane} that is paused or has an open breaker; see `mailfold lanes list`")
    console().print(f"{queue} {lane} is resumed", markup=False)


@destinations.command("pause")
def pause_destination(
    tenant: TenantOption = "default", brand: BrandOption = "*", reason: PauseReasonOption = DEFAULT_PAUSE_REASON
) -> None:
    """Stop sending conversions to a destination; they wait."""

    async def pause_lanes(rt: Runtime, actions: ActionRecorder) -> list[str]:
        lanes = await _lanes_of_destination(rt.pool, tenant, brand)
        await _pause(rt, actions, "emit", lanes, reason)
        return lanes

    _print_lanes(run_change(pause_lanes), "is paused")


@destinations.command("resume")
def resume_destination(tenant: TenantOption = "default", brand: BrandOption = "*", reason: ReasonOption = "") -> None:
    """Send conversions to a destination again, once it works."""

    async def resume_lanes(rt: Runtime, actions: ActionRecorder) -> list[str]:
        return await _resume(rt, actions, "emit", await _lanes_of_destination(rt.pool, tenant, brand), reason)

    _print_lanes(run_change(resume_lanes), "is resumed")


async def _pause(rt: Runtime, actions: ActionRecorder, queue: str, lanes: Sequence[str], reason: str) -> None:
    for lane in lanes:
        async with actions.recorded(await operations.lane_change(rt.pool, "lanes.pause", queue, lane, reason)):
            await operations.lane_store(rt.pool, queue).pause_lane(lane, reason)


async def _resume(rt: Runtime, actions: ActionRecorder, queue: str, lanes: Sequence[str], reason: str) -> list[str]:
    """Resume the lanes that are paused or have an open breaker, and return them."""
    resumed: list[str] = []
    for lane in lanes:
        change = await operations.lane_change(rt.pool, "lanes.resume", queue, lane, reason)
        if change.before is not None:
            async with actions.recorded(change):
                resumed += await operations.lane_store(rt.pool, queue).resume_lanes([lane])
    return resumed


async def _lanes_of_destination(pool: Pool, tenant: str, brand: str) -> list[str]:
    """Return the lanes of a destination: its brand's, or for `*` those of all brands without their own destination."""
    if brand != "*":
        return [lane_of(tenant, brand)]
    own = {lane_of(row[0], row[1]) for row in await fetch_rows(pool, "list_destinations")}
    emit_lanes = [each.lane for each in await operations.list_lanes(pool) if each.queue == "emit"]
    return [lane for lane in emit_lanes if lane.startswith(f"{tenant}/") and lane not in own]


def _print_lanes(lanes: list[str], change: str) -> None:
    if not lanes:
        raise NotFound("no such lane; see `mailfold lanes list`")
    for lane in lanes:
        console().print(f"emit {lane} {change}", markup=False)
