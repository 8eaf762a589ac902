"""`mailfold analytics grant|revoke|list`: which roles of Postgres may read the views for analysis, and of whom."""

from typing import Annotated

import typer

from pipeline.admin import analytics
from pipeline.cli.context import cell, console, run_with_pool, table
from pipeline.errors import Refused

app = typer.Typer(help="Roles of Postgres that may read the views in the schema `analytics`.", no_args_is_help=True)

RoleArgument = Annotated[str, typer.Argument(help="A role of Postgres, which must exist already.", metavar="ROLE")]


@app.command("grant")
def grant(
    role: RoleArgument,
    *,
    tenant: Annotated[str, typer.Option(help="Only this tenant's emails; may be granted one after the other.")] = "",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="The emails of all tenants.")] = False,
) -> None:
    """Let a role read the views `emails`, `events` and `daily_statistics`, and nothing else."""
    if bool(tenant) == all_tenants:
        raise Refused("say either --tenant or --all-tenants")
    allowed = analytics.ALL_TENANTS if all_tenants else tenant
    run_with_pool(lambda pool, _: analytics.grant_analytics(pool, role, allowed))
    console().print(f"{role} may read the analytics of {tenant or 'all tenants'}", markup=False)


@app.command("revoke")
def revoke(role: RoleArgument) -> None:
    """Take the views away from a role."""
    run_with_pool(lambda pool, _: analytics.revoke_analytics(pool, role))
    console().print(f"{role} may not read the analytics any more", markup=False)


@app.command("list")
def list_readers() -> None:
    """Show the roles that may read the views, and of which tenants."""
    listing = table("role", "tenant")
    for row in run_with_pool(lambda pool, _: analytics.list_analytics_readers(pool)):
        listing.add_row(*map(cell, row))
    console().print(listing)
