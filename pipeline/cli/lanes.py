"""`mailfold lanes list|pause|resume` and `mailfold destinations pause|resume`: a brand's queue, stopped and let go."""

from typing import Annotated, Final

import typer

from pipeline.admin import fetch_rows
from pipeline.cli.admin import BrandOption, TenantOption, destinations
from pipeline.cli.context import console, run_with_pool, table
from pipeline.dispatch.routing.health import QUEUE as PROVIDERS
from pipeline.errors import NotFound, Refused
from pipeline.jobs.store import SQL, ClaimLimits, JobStore
from pipeline.operations.dead_letters import QUEUES
from pipeline.runtime.database import Pool
from projections.debts import lane_of

app = typer.Typer(help="Each brand's way through an outbox: waiting, paused, broken.", no_args_is_help=True)

QueueArgument = Annotated[
    str,
    typer.Argument(
        help="`dispatch` (mail), `emit` (conversions), or `provider`: one of a brand that has several.", metavar="QUEUE"
    ),
]
LaneArgument = Annotated[
    str, typer.Argument(help="`tenant/brand`, or the provider, as the list shows it.", metavar="LANE")
]
ReasonOption = Annotated[str, typer.Option(help="Why; shown in lists.")]
DEFAULT_PAUSE_REASON: Final = "paused by an operator"


@app.command("list")
def list_lanes() -> None:
    """Show every lane with work, a pause or an open breaker."""

    async def look(pool: Pool) -> list[tuple[object, ...]]:
        async with pool.connection() as connection:
            return await (await connection.execute(SQL["list_lanes"])).fetchall()

    shown = table("queue", "lane", "waiting", "in hand", "paused since", "why", "broken until")
    for row in run_with_pool(lambda pool, _: look(pool)):
        shown.add_row(*("" if value is None else str(value) for value in row))
    console().print(shown)


@app.command("pause")
def pause(queue: QueueArgument, lane: LaneArgument, reason: ReasonOption = DEFAULT_PAUSE_REASON) -> None:
    """Stop a lane: its jobs wait and burn no attempts."""
    _check(queue)
    run_with_pool(lambda pool, _: _store(pool, queue).pause_lane(lane, reason))
    console().print(f"{queue} {lane} is paused", markup=False)


@app.command("resume")
def resume(queue: QueueArgument, lane: LaneArgument) -> None:
    """Let a lane go on, with a closed breaker."""
    _check(queue)
    if not run_with_pool(lambda pool, _: _store(pool, queue).resume_lanes([lane])):
        raise NotFound(f"{queue} has no paused or broken lane {lane}; `mailfold lanes list` shows them")
    console().print(f"{queue} {lane} goes on", markup=False)


@destinations.command("pause")
def pause_destination(
    tenant: TenantOption = "default", brand: BrandOption = "*", reason: ReasonOption = DEFAULT_PAUSE_REASON
) -> None:
    """Stop telling a destination; what is owed waits."""

    async def stop(pool: Pool) -> list[str]:
        found = await _lanes_of(pool, tenant, brand)
        for lane in found:
            await _store(pool, "emit").pause_lane(lane, reason)
        return found

    _say(run_with_pool(lambda pool, _: stop(pool)), "is paused")


@destinations.command("resume")
def resume_destination(tenant: TenantOption = "default", brand: BrandOption = "*") -> None:
    """Go on telling a destination, once it was repaired."""

    async def go(pool: Pool) -> list[str]:
        return await _store(pool, "emit").resume_lanes(await _lanes_of(pool, tenant, brand))

    _say(run_with_pool(lambda pool, _: go(pool)), "goes on")


async def _lanes_of(pool: Pool, tenant: str, brand: str) -> list[str]:
    """The lanes that a destination's row serves: its brand's, or for `*` all that have no row of their own."""
    if brand != "*":
        return [lane_of(tenant, brand)]
    own = {lane_of(row[0], row[1]) for row in await fetch_rows(pool, "list_destinations")}
    async with pool.connection() as connection:
        known = await (await connection.execute(SQL["list_lanes"])).fetchall()
    return [lane for queue, lane, *_ in known if queue == "emit" and lane.startswith(f"{tenant}/") and lane not in own]


def _say(found: list[str], what: str) -> None:
    if not found:
        raise NotFound("no such lane; `mailfold lanes list` shows them")
    for lane in found:
        console().print(f"emit {lane} {what}", markup=False)


def _check(queue: str) -> None:
    if queue not in (*QUEUES, PROVIDERS):
        raise Refused(f"{queue}: no queue of ours; it's one of {', '.join((*QUEUES, PROVIDERS))}")


def _store(pool: Pool, queue: str) -> JobStore:
    return JobStore(pool, queue, ClaimLimits(1, 1, 10.0))
