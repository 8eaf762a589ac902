"""`mailfold lanes list|pause|resume` and `mailfold destinations pause|resume`: pause and resume a brand's jobs."""

from typing import Annotated, Final

import typer

from pipeline.admin import fetch_rows
from pipeline.cli.admin import BrandOption, TenantOption, destinations
from pipeline.cli.context import cell, console, run_with_pool, table
from pipeline.errors import NotFound
from pipeline.operations import lanes
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
ReasonOption = Annotated[str, typer.Option(help="The reason, shown in lists.")]
DEFAULT_PAUSE_REASON: Final = "paused by an operator"


@app.command("list")
def list_lanes() -> None:
    """Show every lane with work, a pause or an open breaker."""
    listing = table("queue", "lane", "waiting", "claimed", "paused since", "reason", "breaker open until")
    for row in run_with_pool(lambda pool, _: lanes.list_lanes(pool)):
        listing.add_row(*map(cell, row))
    console().print(listing)


@app.command("pause")
def pause(queue: QueueArgument, lane: LaneArgument, reason: ReasonOption = DEFAULT_PAUSE_REASON) -> None:
    """Pause a lane: its jobs wait, and use up no attempts."""
    run_with_pool(lambda pool, _: lanes.pause_lane(pool, queue, lane, reason))
    console().print(f"{queue} {lane} is paused", markup=False)


@app.command("resume")
def resume(queue: QueueArgument, lane: LaneArgument) -> None:
    """Resume a lane, and close its breaker."""
    run_with_pool(lambda pool, _: lanes.resume_lane(pool, queue, lane))
    console().print(f"{queue} {lane} is resumed", markup=False)


@destinations.command("pause")
def pause_destination(
    tenant: TenantOption = "default", brand: BrandOption = "*", reason: ReasonOption = DEFAULT_PAUSE_REASON
) -> None:
    """Stop sending conversions to a destination; they wait."""

    async def pause_lanes(pool: Pool) -> list[str]:
        paused = await _lanes_of_destination(pool, tenant, brand)
        for lane in paused:
            await lanes.pause_lane(pool, "emit", lane, reason)
        return paused

    _print_lanes(run_with_pool(lambda pool, _: pause_lanes(pool)), "is paused")


@destinations.command("resume")
def resume_destination(tenant: TenantOption = "default", brand: BrandOption = "*") -> None:
    """Send conversions to a destination again, once it works."""

    async def resume_lanes(pool: Pool) -> list[str]:
        return await lanes.lane_store(pool, "emit").resume_lanes(await _lanes_of_destination(pool, tenant, brand))

    _print_lanes(run_with_pool(lambda pool, _: resume_lanes(pool)), "is resumed")


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
