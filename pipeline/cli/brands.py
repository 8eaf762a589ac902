"""`mailfold brands`: how a brand's mail looks and which way it goes, into Postgres and out."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import admin
from pipeline.cli.admin import TenantOption
from pipeline.cli.context import cell, console, run_with_pool, secret_of, table
from pipeline.content import dkim
from pipeline.content.addresses import address_problem, header_text_problem
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.rendezvous import Route
from pipeline.dispatch.routing.routes import get_brand_routing, set_dkim, set_routes
from pipeline.errors import NotFound, Refused
from pipeline.runtime.database import Pool
from pipeline.settings import Settings

app = typer.Typer(help="How a brand's mail looks, and whom it goes through.", no_args_is_help=True)


@app.command("add")
def add_brand(
    brand: str,
    *,
    provider: Annotated[str, typer.Option(help="Whom it sends through.")],
    tenant: TenantOption = "default",
    unknown: Annotated[
        str, typer.Option(help="After a crash in mid-sending: resend, or hold for a decision.")
    ] = "resend",
    sender: Annotated[
        str, typer.Option(help="Whom its mail is from where a request names nobody: `Shop <news@shop.example>`.")
    ] = "",
    unsubscribe: Annotated[
        bool, typer.Option(help="Messages carry List-Unsubscribe, unless their sender says it itself.")
    ] = True,
    trap_link: Annotated[
        bool, typer.Option("--trap-link", help="HTML carries a link that no human sees: who follows it is a robot.")
    ] = False,
) -> None:
    """Add a brand, or change it; its routes and its DKIM key stay."""
    name, address = _sender(sender)
    row = admin.Brand(tenant, brand, provider, unknown, unsubscribe, trap_link, address, name)
    run_with_pool(lambda pool, _: admin.add_brand(pool, row))
    console().print(f"brand {brand} of {tenant} sends through {provider}", markup=False)


@app.command("list")
def list_brands() -> None:
    """Show the brands."""
    shown = table("tenant", "brand", "provider", "after a crash", "sender", "signed as")
    for row in run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_brands")):
        shown.add_row(*map(cell, row))
    console().print(shown)


@app.command("route")
def route(
    brand: str,
    routes: Annotated[
        list[str] | None, typer.Argument(help="provider=weight …; none: through its one provider again.")
    ] = None,
    tenant: TenantOption = "default",
) -> None:
    """Send a brand's mail through several providers, by weight; each stands in for the others."""
    made = [_route(text) for text in routes or []]
    run_with_pool(lambda pool, _: set_routes(pool, tenant, brand, made))
    ways = ", ".join(f"{one.provider} ({one.weight:g})" for one in made) or "its one provider"
    console().print(f"brand {brand} of {tenant} sends through {ways}", markup=False)


@app.command("dkim")
def sign(
    brand: str,
    *,
    domain: Annotated[str, typer.Option(help="In whose name: the domain of the sender's address.")] = "",
    selector: Annotated[str, typer.Option(help="The key's name in that domain's DNS.")] = "",
    tenant: TenantOption = "default",
    key_file: Annotated[
        str, typer.Option(help="A private key in PEM, or - for standard input; none: one is made.", metavar="FILE")
    ] = "",
    ed25519: Annotated[bool, typer.Option("--ed25519", help="Make an Ed25519 key; RSA is what all verify.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Sign no more, and forget the key.")] = False,
) -> None:
    """Sign a brand's messages over plain SMTP (DKIM), and print the record that its DNS needs."""
    if remove:
        run_with_pool(lambda pool, settings: set_dkim(pool, tenant, brand, None, secret_of(settings)))
        console().print(f"messages of brand {brand} of {tenant} are signed no more", markup=False)
        return
    if not domain or not selector:
        raise Refused("--domain and --selector say in whose name and by which key")
    made = DkimKey(domain, selector, _read(key_file) if key_file else dkim.new_key(ed25519=ed25519))
    dkim.check_key(made)
    run_with_pool(lambda pool, settings: set_dkim(pool, tenant, brand, made, secret_of(settings)))
    _print_record(made)


@app.command("dns")
def record(brand: str, tenant: TenantOption = "default") -> None:
    """Print the DNS record of a brand's key again."""

    async def look(pool: Pool, settings: Settings) -> DkimKey:
        way = await get_brand_routing(pool, tenant, brand, secret_of(settings))
        if way.dkim is None:
            raise NotFound(f"brand {brand} of {tenant} has no key; `mailfold brands dkim` makes one")
        return way.dkim

    _print_record(run_with_pool(look))


def _print_record(made: DkimKey) -> None:
    # As it is, for a zone file: no folding at the terminal's width.
    console().print(dkim.dns_record(made), markup=False, soft_wrap=True, highlight=False)


def _route(text: str) -> Route:
    provider, _, weight = text.partition("=")
    try:
        found = float(weight)
    except ValueError:
        found = 0.0
    if not provider or not (found > 0 and math.isfinite(found)):
        raise Refused(f"{text}: not provider=weight with a weight above 0")
    return Route(provider, found)


def _sender(text: str) -> tuple[str, str]:
    if not text:
        return "", ""
    # Not as a header is parsed: nobody quotes a comma at a shell.
    name, bracket, address = text.rpartition("<")
    name, address = (name.strip().strip('"'), address.removesuffix(">")) if bracket else ("", text)
    if problem := address_problem(address) or header_text_problem(name):
        raise Refused(f"{text}: not a sender like `Shop <news@shop.example>`: {problem}")
    return name, address


def _read(place: str) -> str:
    try:
        return sys.stdin.read() if place == "-" else Path(place).read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise Refused(f"{place}: can't be read as a key") from error
