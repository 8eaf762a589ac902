"""`mailfold tenants|keys|destinations`: what an operator decides, into Postgres and out."""

import asyncio
import socket
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from pipeline import admin
from pipeline.cli.context import (
    CREDENTIAL_SOURCE_HELP,
    cell,
    command_settings,
    console,
    read_credential,
    run_with_pool,
    secret_of,
    table,
)
from pipeline.emit.ssrf import is_public
from pipeline.errors import Refused

tenants = typer.Typer(help="Who may send: a customer of this installation.", no_args_is_help=True)
keys = typer.Typer(help="A tenant's API keys; only their hashes are kept.", no_args_is_help=True)
destinations = typer.Typer(help="Where a brand's conversions go.", no_args_is_help=True)

RESOLVE_TIMEOUT_S: Final = 5.0

TenantOption = Annotated[str, typer.Option(help="The tenant.")]
BrandOption = Annotated[str, typer.Option(help="The brand, as callers name it; `*` serves all without a row.")]


@tenants.command("add")
def add_tenant(
    tenant: str,
    batch_max: Annotated[int | None, typer.Option(help="Messages taken of one batch. [MAILFOLD_BATCH_MAX]")] = None,
    rate: Annotated[float | None, typer.Option(help="Messages per second. [MAILFOLD_RATE_PER_SECOND]")] = None,
) -> None:
    """Add a tenant, or change its limits."""
    run_with_pool(lambda pool, _: admin.add_tenant(pool, admin.Tenant(tenant, batch_max, rate)))
    console().print(f"tenant {tenant}; next: mailfold keys add {tenant}", markup=False)


@tenants.command("list")
def list_tenants() -> None:
    """Show the tenants and their limits; empty is the installation's."""
    _list("list_tenants", "tenant", "batch max", "per second")


@keys.command("add")
def add_key(tenant: str, label: Annotated[str, typer.Option(help="What it is for.")] = "") -> None:
    """Make an API key and show it, this once."""
    console().print(run_with_pool(lambda pool, _: admin.add_key(pool, tenant, label)), markup=False)


@keys.command("list")
def list_keys() -> None:
    """Show the keys' names; the keys themselves are not kept."""
    _list("list_keys", "name", "tenant", "label", "made", "revoked")


@keys.command("revoke")
def revoke_key(name: str) -> None:
    """End a key by the name that `keys list` shows."""
    run_with_pool(lambda pool, _: admin.revoke_key(pool, name))
    console().print(f"key {name} is revoked", markup=False)


@destinations.command("add")
def add_destination(
    url: Annotated[str, typer.Argument(help="What Fast Track supplied; /email/conversion is added.")],
    *,
    tenant: TenantOption = "default",
    brand: BrandOption = "*",
    key_env: Annotated[str, typer.Option(help=f"Its X-API-KEY: {CREDENTIAL_SOURCE_HELP}.", metavar="NAME")] = "",
    user_id_integer: Annotated[
        bool, typer.Option("--user-id-integer", help="activity.user_id goes back as a number, the rest as it came.")
    ] = False,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Take an http URL: key and conversions are read by all on the way.")
    ] = False,
) -> None:
    """Say where a brand's conversions go."""
    _check_url(url, insecure_http=insecure_http)
    row = admin.Destination(tenant, brand, url.rstrip("/"), read_credential("X-API-KEY", key_env), user_id_integer)
    run_with_pool(lambda pool, settings: admin.add_destination(pool, row, secret_of(settings)))
    console().print(f"conversions of brand {brand} of {tenant} go to {row.url}/email/conversion", markup=False)
    for line in _warnings(url):
        typer.echo(f"warning: {line}", err=True)


@destinations.command("list")
def list_destinations() -> None:
    """Show the destinations, without their keys."""
    rows = run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_destinations"))
    shown = table("tenant", "brand", "url", "user_id")
    for tenant, brand, url, integer in rows:
        shown.add_row(tenant, brand, url, "as a number" if integer else "as it came")
    console().print(shown)
    if count := sum(admin.is_unencrypted_url(row[2]) for row in rows):
        typer.echo(f"warning: {count} over plain http: all on the way read the key; give an https URL", err=True)


def _list(query: str, *columns: str) -> None:
    shown = table(*columns)
    for row in run_with_pool(lambda pool, _: admin.fetch_rows(pool, query)):
        shown.add_row(*map(cell, row))
    console().print(shown)


def _check_url(url: str, *, insecure_http: bool = False) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Refused(f"{url}: not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url}: not an http or https URL")
    if parts.username or parts.query or parts.fragment:
        raise Refused(f"{url}: credentials, ? and # have no place here; the key has its own option")
    if admin.is_unencrypted_url(url) and not insecure_http:
        raise Refused(f"{url}: not https, and its key travels there; --insecure-http takes it nevertheless")


def _warnings(url: str) -> list[str]:
    """Return what keeps conversions from this URL, as far as it can be seen from here."""
    parts = urlsplit(url)
    found = []
    if admin.is_unencrypted_url(url):
        found.append("over plain http all on the way read the key")
    if command_settings().allow_private_destinations:
        return found
    addresses = _resolved(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    if addresses is None:
        found.append(f"{parts.hostname} can't be looked up from here")
    elif not any(is_public(address) for address in addresses):
        found.append(
            f"{parts.hostname} leads to a private address, which the emitter refuses unless "
            "MAILFOLD_ALLOW_PRIVATE_DESTINATIONS is set for it"
        )
    return found


def _resolved(host: str, port: int) -> list[str] | None:
    """Return a name's addresses; None where there is none in time."""

    async def ask() -> list[str]:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]

    try:
        return asyncio.run(ask())
    except (OSError, TimeoutError, UnicodeError):
        return None
