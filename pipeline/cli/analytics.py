"""`mailfold analytics grant|revoke|list`: which roles of Postgres may read the views for analysis, and of whom."""

from typing import Annotated

import typer

from pipeline.admin import analytics
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.cli.context import ReasonOption, cell, console, run_change, run_with_pool, table
from pipeline.errors import Refused
from pipeline.runtime.bootstrap import Runtime

app = typer.Typer(help="Roles of Postgres that may read the views in the schema `analytics`.", no_args_is_help=True)

RoleArgument = Annotated[str, typer.Argument(help="A role of Postgres, which must exist already.", metavar="ROLE")]


@app.command("grant")
def grant(
    role: RoleArgument,
    *,
    tenant: Annotated[str, typer.Option(help="Only this tenant's emails; may be granted one after the other.")] = "",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="The emails of all tenants.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Let a role read the views `emails`, `events` and `daily_statistics`, and nothing else."""
    if bool(tenant) == all_tenants:
        raise Refused("say either --tenant or --all-tenants")
    allowed = analytics.ALL_TENANTS if all_tenants else tenant

    async def grant_recorded(rt: Runtime, actions: ActionRecorder) -> None:
        async with actions.recorded(OperatorChange("analytics.grant", role, tenant, reason=reason)):
            await analytics.grant_analytics(rt.pool, role, allowed)

    run_change(grant_recorded)
    console().print(f"{role} may read the analytics of {tenant or 'all tenants'}", markup=False)


@app.command("revoke")
def revoke(role: RoleArgument, reason: ReasonOption = "") -> None:
    """Take the views away from a role."""

    async def revoke_recorded(rt: Runtime, actions: ActionRecorder) -> None:
        async with actions.recorded(OperatorChange("analytics.revoke", role, reason=reason)):
            await analytics.revoke_analytics(rt.pool, role)

    run_change(revoke_recorded)
    console().print(f"{role} may not read the analytics any more", markup=False)


@app.command("list")
def list_readers() -> None:
    """Show the roles that may read the views, and of which tenants."""
    listing = table("role", "tenant")
    for row in run_with_pool(lambda pool, _: analytics.list_analytics_readers(pool)):
        listing.add_row(*map(cell, row))
    console().print(listing)
