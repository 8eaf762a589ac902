"""`mailfold lanes list|pause|resume` and `mailfold destinations pause|resume`: pause and resume a brand's jobs."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from pipeline.admin import fetch_rows
from pipeline.admin.actions import ActionRecorder
from pipeline.cli.admin import BrandOption, TenantOption, destinations
from pipeline.cli.context import ReasonOption, cell, console, run_change, run_with_pool, table
from pipeline.errors import NotFound
from pipeline.operations import lanes
from pipeline.operations.lanes import lane_change
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.database import Pool
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
    for row in run_with_pool(lambda pool, _: lanes.list_lanes(pool)):
        listing.add_row(*map(cell, row))
    console().print(listing)


@app.command("pause")
def pause(queue: QueueArgument, lane: LaneArgument, reason: PauseReasonOption = DEFAULT_PAUSE_REASON) -> None:
    """Pause a lane: its jobs wait, and use up no attempts."""
    run_change(lambda rt, actions: _pause(rt, actions, queue, [lane], reason))
    console().print(f"{queue} {lane} is paused", markup=False)


@app.command("resume")
def resume(queue: QueueArgument, lane: LaneArgument, reason: ReasonOption = "") -> None:
    """Resume a lane, and close its breaker."""

    async def resume_recorded(rt: Runtime, actions: ActionRecorder) -> None:
        async with actions.recorded(await lane_change(rt.pool, "lanes.resume", queue, lane, reason)):
            await lanes.resume_lane(rt.pool, queue, lane)

    run_change(resume_recorded)
    console().print(f"{queue} {lane} is resumed", markup=False)


@destinations.command("pause")
def pause_destination(
    tenant: TenantOption = "default", brand: BrandOption = "*", reason: PauseReasonOption = DEFAULT_PAUSE_REASON
) -> None:
    """Stop sending conversions to a destination; they wait."""

    async def pause_lanes(rt: Runtime, actions: ActionRecorder) -> list[str]:
        paused = await _lanes_of_destination(rt.pool, tenant, brand)
        await _pause(rt, actions, "emit", paused, reason)
        return paused

    _print_lanes(run_change(pause_lanes), "is paused")


@destinations.command("resume")
def resume_destination(tenant: TenantOption = "default", brand: BrandOption = "*", reason: ReasonOption = "") -> None:
    """Send conversions to a destination again, once it works."""

    async def resume_lanes(rt: Runtime, actions: ActionRecorder) -> list[str]:
        resumed: list[str] = []
        for lane in await _lanes_of_destination(rt.pool, tenant, brand):
            change = await lane_change(rt.pool, "lanes.resume", "emit", lane, reason)
            if change.before is not None:
                async with actions.recorded(change):
                    resumed += await lanes.lane_store(rt.pool, "emit").resume_lanes([lane])
        return resumed

    _print_lanes(run_change(resume_lanes), "is resumed")


async def _pause(rt: Runtime, actions: ActionRecorder, queue: str, names: Sequence[str], reason: str) -> None:
    for lane in names:
        async with actions.recorded(await lane_change(rt.pool, "lanes.pause", queue, lane, reason)):
            await lanes.pause_lane(rt.pool, queue, lane, reason)


async def _lanes_of_destination(pool: Pool, tenant: str, brand: str) -> list[str]:
    """Return the lanes of a destination: its brand's, or for `*` those of all brands without their own destination."""
    if brand != "*":
        return [lane_of(tenant, brand)]
    own = {lane_of(row[0], row[1]) for row in await fetch_rows(pool, "list_destinations")}
    emit_lanes = [each.lane for each in await lanes.list_lanes(pool) if each.queue == "emit"]
    return [lane for lane in emit_lanes if lane.startswith(f"{tenant}/") and lane not in own]


def _print_lanes(names: list[str], change: str) -> None:
    if not names:
        raise NotFound("no such lane; see `mailfold lanes list`")
    for lane in names:
        console().print(f"emit {lane} {change}", markup=False)
