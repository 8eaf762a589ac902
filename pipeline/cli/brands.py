"""`mailfold brands`: store and list brands, with their providers, routes and DKIM keys, in Postgres."""

import math
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline import admin
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.admin.shown import shown_row
from pipeline.cli.admin import TenantOption
from pipeline.cli.context import ReasonOption, cell, console, run_change, run_with_pool, table
from pipeline.content import dkim
from pipeline.content.addresses import address_problem, header_text_problem
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.rendezvous import Route
from pipeline.dispatch.routing.routes import get_brand_routing, set_dkim, set_routes
from pipeline.errors import NotFound, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings

app = typer.Typer(help="Brands: their providers, senders and DKIM keys.", no_args_is_help=True)


@app.command("add")
def add_brand(
    brand: str,
    *,
    provider: Annotated[str, typer.Option(help="The provider that sends its mail.")],
    tenant: TenantOption = "default",
    unknown: Annotated[
        str, typer.Option(help="After a crash while a message was being sent: resend, or hold for a decision.")
    ] = "resend",
    sender: Annotated[
        str, typer.Option(help="The sender for requests that name none: `Shop <news@shop.example>`.")
    ] = "",
    unsubscribe: Annotated[bool, typer.Option(help="Add List-Unsubscribe headers to messages that have none.")] = True,
    trap_link: Annotated[
        bool, typer.Option("--trap-link", help="Add a hidden link to HTML: clicks on it are by robots.")
    ] = False,
    reason: ReasonOption = "",
) -> None:
    """Add a brand, or change it; its routes and its DKIM key stay as they are."""
    name, address = _parse_sender(sender)
    row = admin.Brand(tenant, brand, provider, unknown, unsubscribe, trap_link, address, name)
    change = OperatorChange("brands.add", brand, tenant, reason=reason, after=asdict(row))
    _change(change, lambda rt: admin.add_brand(rt.pool, row))
    console().print(f"brand {brand} of {tenant} sends through {provider}", markup=False)


@app.command("list")
def list_brands() -> None:
    """Show the brands."""
    listing = table("tenant", "brand", "provider", "after a crash", "sender", "signed as")
    for row in run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_brands")):
        listing.add_row(*map(cell, row))
    console().print(listing)


@app.command("route")
def route(
    brand: str,
    routes: Annotated[
        list[str] | None, typer.Argument(help="provider=weight …; without any, the brand's one provider again.")
    ] = None,
    tenant: TenantOption = "default",
    reason: ReasonOption = "",
) -> None:
    """Send a brand's mail through several providers, by weight; where one fails, the others take its share."""
    parsed = [_parse_route(text) for text in routes or []]
    after = {"routes": {each.provider: each.weight for each in parsed}}
    change = OperatorChange("brands.route", brand, tenant, reason=reason, after=after)
    _change(change, lambda rt: set_routes(rt.pool, tenant, brand, parsed))
    providers = ", ".join(f"{each.provider} ({each.weight:g})" for each in parsed) or "its one provider"
    console().print(f"brand {brand} of {tenant} sends through {providers}", markup=False)


@app.command("dkim")
def sign(
    brand: str,
    *,
    domain: Annotated[str, typer.Option(help="The signing domain: that of the sender's address.")] = "",
    selector: Annotated[str, typer.Option(help="The key's name in that domain's DNS.")] = "",
    tenant: TenantOption = "default",
    key_file: Annotated[
        str,
        typer.Option(help="A private key in PEM, or - for standard input; without it, one is made.", metavar="FILE"),
    ] = "",
    ed25519: Annotated[
        bool, typer.Option("--ed25519", help="Make an Ed25519 key; not all receivers verify these, as they do RSA.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the key, and stop signing.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Sign a brand's messages over plain SMTP (DKIM), and print the record that its DNS needs."""
    if remove:
        _set_dkim(tenant, brand, None, reason)
        console().print(f"messages of brand {brand} of {tenant} are no longer signed", markup=False)
        return
    if not domain or not selector:
        raise Refused("--domain and --selector are needed to sign")
    key = DkimKey(domain, selector, _read_key(key_file) if key_file else dkim.new_key(ed25519=ed25519))
    dkim.check_key(key)
    _set_dkim(tenant, brand, key, reason)
    _print_record(key)


@app.command("dns")
def record(brand: str, tenant: TenantOption = "default") -> None:
    """Print the DNS record of a brand's DKIM key again."""

    async def get_key(pool: Pool, settings: Settings) -> DkimKey:
        routing = await get_brand_routing(pool, tenant, brand, secret_ring(settings))
        if routing.dkim is None:
            raise NotFound(f"brand {brand} of {tenant} has no key; `mailfold brands dkim` makes one")
        return routing.dkim

    _print_record(run_with_pool(get_key))


def _set_dkim(tenant: str, brand: str, key: DkimKey | None, reason: str) -> None:
    after = None if key is None else {"domain": key.domain, "selector": key.selector}

    async def make(rt: Runtime) -> None:
        await set_dkim(rt.pool, tenant, brand, key, secret_ring(rt.settings))

    _change(OperatorChange("brands.dkim", brand, tenant, reason=reason, after=after), make)


def _change(change: OperatorChange, make: Callable[[Runtime], Awaitable[None]]) -> None:
    """Record a change of a brand with what is stored of it, and make it."""

    async def work(rt: Runtime, actions: ActionRecorder) -> None:
        before = await shown_row(rt.pool, "brand_shown", change.tenant, change.target)
        async with actions.recorded(replace(change, target=f"{change.tenant}/{change.target}", before=before)):
            await make(rt)

    run_change(work)


def _print_record(key: DkimKey) -> None:
    # Not wrapped at the terminal's width, so that it can be copied into a zone file.
    console().print(dkim.dns_record(key), markup=False, soft_wrap=True, highlight=False)


def _parse_route(text: str) -> Route:
    provider, _, weight_text = text.partition("=")
    try:
        weight = float(weight_text)
    except ValueError:
        weight = 0.0
    if not provider or not (weight > 0 and math.isfinite(weight)):
        raise Refused(f"{text}: not provider=weight with a weight above 0")
    return Route(provider, weight)


def _parse_sender(text: str) -> tuple[str, str]:
    """Return the name and the address of a sender as people type it at a shell. Raise Refused."""
    if not text:
        return "", ""
    # Not parsed as a header, in which a name with a comma would need quotes.
    name, bracket, address = text.rpartition("<")
    name, address = (name.strip().strip('"'), address.removesuffix(">")) if bracket else ("", text)
    if problem := address_problem(address) or header_text_problem(name):
        raise Refused(f"{text}: not a sender like `Shop <news@shop.example>`: {problem}")
    return name, address


def _read_key(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise Refused(f"{file}: can't be read as a key") from error
