"""`mailfold tenants|keys|destinations`: what an operator decides, into Postgres and out."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from pipeline import admin
from pipeline.commands.here import FROM, cell, console, credential, secret_of, table, with_pool
from pipeline.errors import Refused

tenants = typer.Typer(help="Who may send: a customer of this installation.", no_args_is_help=True)
keys = typer.Typer(help="A tenant's API keys; only their hashes are kept.", no_args_is_help=True)
destinations = typer.Typer(help="Where a brand's conversions go.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="The tenant.")]
BrandName = Annotated[str, typer.Option(help="The brand, as callers name it; `*` serves all without a row.")]


@tenants.command("add")
def add_tenant(
    tenant: str,
    batch_max: Annotated[int | None, typer.Option(help="Messages taken of one batch. [MAILFOLD_BATCH_MAX]")] = None,
    rate: Annotated[float | None, typer.Option(help="Messages per second. [MAILFOLD_RATE_PER_SECOND]")] = None,
) -> None:
    """Add a tenant, or change its limits."""
    with_pool(lambda pool, _: admin.add_tenant(pool, admin.Tenant(tenant, batch_max, rate)))
    console().print(f"tenant {tenant}; next: mailfold keys add {tenant}", markup=False)


@tenants.command("list")
def list_tenants() -> None:
    """Show the tenants and their limits; empty is the installation's."""
    _list("list_tenants", "tenant", "batch max", "per second")


@keys.command("add")
def add_key(tenant: str, label: Annotated[str, typer.Option(help="What it is for.")] = "") -> None:
    """Make an API key and show it, this once."""
    console().print(with_pool(lambda pool, _: admin.add_key(pool, tenant, label)), markup=False)


@keys.command("list")
def list_keys() -> None:
    """Show the keys' names; the keys themselves are not kept."""
    _list("list_keys", "name", "tenant", "label", "made", "revoked")


@keys.command("revoke")
def revoke_key(name: str) -> None:
    """End a key by the name that `keys list` shows."""
    with_pool(lambda pool, _: admin.revoke_key(pool, name))
    console().print(f"key {name} is revoked", markup=False)


@destinations.command("add")
def add_destination(
    url: Annotated[str, typer.Argument(help="What Fast Track supplied; /email/conversion is added.")],
    tenant: Tenant = "default",
    brand: BrandName = "*",
    key_env: Annotated[str, typer.Option(help=f"Its X-API-KEY: {FROM}.", metavar="NAME")] = "",
    user_id_integer: Annotated[
        bool, typer.Option("--user-id-integer", help="activity.user_id goes back as a number, the rest as it came.")
    ] = False,
) -> None:
    """Say where a brand's conversions go."""
    _check_url(url)
    row = admin.Destination(tenant, brand, url.rstrip("/"), credential("X-API-KEY", key_env), user_id_integer)
    with_pool(lambda pool, settings: admin.add_destination(pool, row, secret_of(settings)))
    console().print(f"conversions of brand {brand} of {tenant} go to {row.url}/email/conversion", markup=False)


@destinations.command("list")
def list_destinations() -> None:
    """Show the destinations, without their keys."""
    rows = with_pool(lambda pool, _: admin.rows(pool, "list_destinations"))
    shown = table("tenant", "brand", "url", "user_id")
    for tenant, brand, url, integer in rows:
        shown.add_row(tenant, brand, url, "as a number" if integer else "as it came")
    console().print(shown)


def _list(query: str, *columns: str) -> None:
    shown = table(*columns)
    for row in with_pool(lambda pool, _: admin.rows(pool, query)):
        shown.add_row(*map(cell, row))
    console().print(shown)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url}: not an http or https URL")
    if parts.username or parts.query or parts.fragment:
        raise Refused(f"{url}: credentials, ? and # have no place here; the key has its own option")
