"""`mailfold domains`: the domains from which tenants send, and whether they are verified."""

from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline import admin
from pipeline.admin import SenderDomain
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.cli.admin import TenantOption
from pipeline.cli.context import ReasonOption, console, minute, run_change, run_with_pool, table
from pipeline.cli.doctor import print_finding
from pipeline.errors import NotFound
from pipeline.operations import sender_domains
from pipeline.operations.doctor.dns_records import DomainChecker
from pipeline.operations.sender_domains import DomainReport
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings

app = typer.Typer(help="The domains from which tenants send, verified by DNS.", no_args_is_help=True)

DomainArgument = Annotated[str, typer.Argument(help="The domain of senders' addresses; its subdomains count, too.")]
SenderBrandOption = Annotated[str, typer.Option("--brand", help="The brand that sends from it; `*` is all of them.")]


@app.command("add")
def add_domain(
    domain: DomainArgument,
    *,
    tenant: TenantOption = "default",
    brand: SenderBrandOption = "*",
    reason: ReasonOption = "",
) -> None:
    """Add a domain of a tenant, and print the TXT record that verifies it."""

    async def add(rt: Runtime, actions: ActionRecorder) -> SenderDomain:
        async with actions.recorded(
            OperatorChange("domains.add", domain, tenant, reason=reason, after={"brand": brand})
        ):
            return await admin.add_sender_domain(rt.pool, tenant, domain, brand)

    row = run_change(add)
    if row.verified_at is not None:
        console().print(f"{row.domain} is verified already", markup=False)
        return
    # Not wrapped at the terminal's width, so that it can be copied into a zone file.
    console().print(f'{row.record_name}. IN TXT "{row.record_text}"', markup=False, soft_wrap=True)
    typer.echo(f"publish it, then: mailfold domains verify {row.domain} --tenant {tenant}", err=True)


@app.command("verify")
def verify_domains(
    domain: Annotated[str, typer.Argument(help="The domain; without it, all of the tenant's.")] = "",
    *,
    tenant: TenantOption = "default",
) -> None:
    """Look up the TXT records of domains, and their SPF, DMARC and DKIM records; exit 1 where one is not verified.

    A domain stays verified until it is removed. DKIM is checked for the keys that Mailfold signs with.
    """
    reports = run_with_pool(lambda pool, settings: _check(pool, settings, tenant, domain))
    if not reports:
        raise NotFound(f"tenant {tenant} has no {domain or 'domain'}; `mailfold domains add` makes one")
    _print_reports(reports)
    if any(report.verification.verdict != "ok" for report in reports):
        raise typer.Exit(1)


@app.command("list")
def list_domains(
    tenant: Annotated[str, typer.Option(help="The tenant. [all]")] = "",
    dns: Annotated[bool, typer.Option("--dns", help="Look all of them up, as `verify` does.")] = False,
) -> None:
    """Show the domains, and whether they are verified."""
    listing = table("tenant", "brand", "domain", "verified", "TXT record", "its text")
    for row in run_with_pool(lambda pool, _: admin.list_sender_domains(pool, tenant)):
        listing.add_row(*_cells(row))
    console().print(listing)
    if dns:
        _print_reports(run_with_pool(lambda pool, settings: _check(pool, settings, tenant)))


@app.command("remove")
def remove_domain(
    domain: DomainArgument,
    *,
    tenant: TenantOption = "default",
    brand: SenderBrandOption = "*",
    reason: ReasonOption = "",
) -> None:
    """Remove a domain of a brand, or of all brands that have it.

    Where senders must be verified, mail from it is refused within five seconds.
    """

    async def remove(rt: Runtime, actions: ActionRecorder) -> None:
        rows = await admin.list_sender_domains(rt.pool, tenant, domain)
        before = {row.brand: {"verified_at": row.verified_at} for row in rows}
        change = OperatorChange("domains.remove", domain, tenant, reason=reason, before=before, after={"brand": brand})
        async with actions.recorded(change):
            await admin.remove_sender_domain(rt.pool, tenant, domain, brand)

    run_change(remove)
    owner = "all brands" if brand == admin.ALL_BRANDS else f"brand {brand}"
    console().print(f"{domain} is removed from {owner} of {tenant}", markup=False)


@app.command("enforce")
def enforce_domains(
    tenant: TenantOption = "default",
    off: Annotated[bool, typer.Option("--off", help="Accept mail from every domain again.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Refuse a tenant's mail whose sender is not of a verified domain; `tenants add` begins so beside other tenants."""

    async def enforce(rt: Runtime, actions: ActionRecorder) -> list[str]:
        change = OperatorChange("domains.enforce", tenant, tenant, reason=reason, after={"verified_senders": not off})
        async with actions.recorded(change):
            await admin.require_verified_senders(rt.pool, tenant, is_required=not off)
        rules = await admin.get_sender_rules(rt.pool, tenant)
        return [brand for brand in sorted(rules.senders_by_brand) if rules.problem(brand, None)]

    refused_brands = run_change(enforce)
    if off:
        console().print(f"tenant {tenant} may send from every domain", markup=False)
        return
    console().print(f"tenant {tenant} may send only from its verified domains", markup=False)
    if refused_brands:
        typer.echo(f"warning: the senders of these brands are of other domains: {', '.join(refused_brands)}", err=True)


async def _check(pool: Pool, settings: Settings, tenant: str, domain: str = "") -> list[DomainReport]:
    rows = await admin.list_sender_domains(pool, tenant, domain)
    checker = DomainChecker(server=settings.dns_server)
    return await sender_domains.check_domains(pool, secret_ring(settings), checker, rows)


def _print_reports(reports: Sequence[DomainReport]) -> None:
    for report in reports:
        for finding in (report.verification, *report.records):
            print_finding(console(), finding, report.tenant)


def _cells(row: SenderDomain) -> tuple[str, ...]:
    record = ("", "") if row.verified_at else (row.record_name, row.record_text)
    return (row.tenant, row.brand, row.domain, minute(row.verified_at) or "no", *record)
