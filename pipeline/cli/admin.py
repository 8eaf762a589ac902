"""`mailfold destinations`: store and list destinations in Postgres."""

import asyncio
import socket
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from pipeline import admin
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.admin.shown import shown_destination, shown_row
from pipeline.cli.context import (
    CREDENTIAL_SOURCE_HELP,
    ReasonOption,
    command_settings,
    console,
    read_credential,
    run_change,
    run_with_pool,
    table,
)
from pipeline.emit.ssrf import is_public
from pipeline.errors import Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.secrets.secret_ring import secret_ring

destinations = typer.Typer(help="URLs to which a brand's conversions are sent.", no_args_is_help=True)

RESOLVE_TIMEOUT_S: Final = 5.0

TenantOption = Annotated[str, typer.Option(help="The tenant.")]
BrandOption = Annotated[
    str, typer.Option(help="The brand, as callers name it; `*` is for brands without a destination of their own.")
]


@destinations.command("add")
def add_destination(
    url: Annotated[str, typer.Argument(help="The URL that Fast Track supplied; /email/conversion is appended.")],
    *,
    tenant: TenantOption = "default",
    brand: BrandOption = "*",
    key_env: Annotated[str, typer.Option(help=f"Its X-API-KEY: {CREDENTIAL_SOURCE_HELP}.", metavar="NAME")] = "",
    user_id_integer: Annotated[
        bool, typer.Option("--user-id-integer", help="Send activity.user_id as a number; else as it was received.")
    ] = False,
    insecure_http: Annotated[
        bool,
        typer.Option("--insecure-http", help="Accept an http URL: the network can read the key and the conversions."),
    ] = False,
    reason: ReasonOption = "",
) -> None:
    """Add the destination of a brand's conversions, or change it."""
    _check_url(url, insecure_http=insecure_http)
    row = admin.Destination(tenant, brand, url.rstrip("/"), read_credential("X-API-KEY", key_env), user_id_integer)

    async def add(rt: Runtime, actions: ActionRecorder) -> None:
        before, after = await shown_row(rt.pool, "destination_shown", tenant, brand), shown_destination(row)
        target = f"{tenant}/{brand}"
        change = OperatorChange("destinations.add", target, tenant=tenant, reason=reason, before=before, after=after)
        async with actions.recorded(change):
            await admin.add_destination(rt.pool, row, secret_ring(rt.settings))

    run_change(add)
    console().print(f"conversions of brand {brand} of {tenant} go to {row.url}/email/conversion", markup=False)
    for line in _warnings(url):
        typer.echo(f"warning: {line}", err=True)


@destinations.command("list")
def list_destinations() -> None:
    """Show the destinations, without their keys."""
    rows = run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_destinations"))
    listing = table("tenant", "brand", "url", "user_id")
    for tenant, brand, url, integer in rows:
        listing.add_row(tenant, brand, url, "as a number" if integer else "as received")
    console().print(listing)
    if count := sum(admin.is_unencrypted_url(row[2]) for row in rows):
        typer.echo(f"warning: {count} over plain http: the network can read the key; use an https URL", err=True)


def _check_url(url: str, *, insecure_http: bool = False) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Refused(f"{url}: not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url}: not an http or https URL")
    if parts.username or parts.query or parts.fragment:
        raise Refused(f"{url}: must contain no credentials, ? or #; the key has its own option")
    if admin.is_unencrypted_url(url) and not insecure_http:
        raise Refused(f"{url}: not https, so its key would be sent unencrypted; --insecure-http allows it")


def _warnings(url: str) -> list[str]:
    """Return warnings about a URL: that it is not encrypted, or that the emitter could not use it."""
    parts = urlsplit(url)
    warnings = []
    if admin.is_unencrypted_url(url):
        warnings.append("over plain http the network can read the key")
    if command_settings().allow_private_destinations:
        return warnings
    addresses = _resolve(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    if addresses is None:
        warnings.append(f"{parts.hostname} can't be resolved on this machine")
    elif not any(is_public(address) for address in addresses):
        warnings.append(
            f"{parts.hostname} has a private address, which the emitter refuses unless "
            "MAILFOLD_ALLOW_PRIVATE_DESTINATIONS is set for it"
        )
    return warnings


def _resolve(host: str, port: int) -> list[str] | None:
    """Return the addresses of a host name; None where the lookup fails or takes too long."""

    async def resolve() -> list[str]:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in entries]

    try:
        return asyncio.run(resolve())
    except (OSError, TimeoutError, UnicodeError):
        return None
