"""`mailfold tenants`: add, show, suspend, resume and delete tenants."""

from datetime import datetime
from typing import Annotated, Any

import typer

from pipeline import admin
from pipeline.admin import TenantSummary, WaitingMail
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.admin.shown import shown_row
from pipeline.cli.context import (
    ReasonOption,
    cell,
    console,
    minute,
    run_change,
    run_with_pool,
    run_with_runtime,
    table,
)
from pipeline.errors import Refused
from pipeline.operations import tenant_deletion
from pipeline.operations.tenant_deletion import TenantDeletion
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import Pool

app = typer.Typer(help="Tenants: the customers of this installation, who may send.", no_args_is_help=True)


@app.command("add")
def add_tenant(
    tenant: str,
    batch_max: Annotated[int | None, typer.Option(help="Messages accepted in one batch. [MAILFOLD_BATCH_MAX]")] = None,
    rate: Annotated[float | None, typer.Option(help="Messages per second. [MAILFOLD_RATE_PER_SECOND]")] = None,
    reason: ReasonOption = "",
) -> None:
    """Add a tenant, or change its limits.

    A tenant that is added beside others may send only from domains that are verified for it (`mailfold domains`).
    """

    async def add(rt: Runtime, actions: ActionRecorder) -> bool:
        must_verify = await admin.has_other_tenants(rt.pool, tenant)
        change = await _change(rt, "tenants.add", tenant, reason, {"batch_max": batch_max, "rate_per_second": rate})
        async with actions.recorded(change):
            await admin.add_tenant(rt.pool, admin.Tenant(tenant, batch_max, rate, verified_senders=must_verify))
        return must_verify

    must_verify = run_change(add)
    console().print(f"tenant {tenant}; next: mailfold keys add {tenant}", markup=False)
    if must_verify:
        typer.echo(
            f"it may send only from domains that are verified for it: mailfold domains add DOMAIN --tenant {tenant}",
            err=True,
        )


@app.command("list")
def list_tenants() -> None:
    """Show the tenants and their limits; where a limit is empty, the installation's applies."""
    listing = table("tenant", "batch max", "per second", "senders", "suspended since")
    for *row, suspended_at, verified_senders in run_with_pool(lambda pool, _: admin.fetch_rows(pool, "list_tenants")):
        listing.add_row(*map(cell, row), _senders(verified_senders), minute(suspended_at))
    console().print(listing)


@app.command("show")
def show_tenant(tenant: str) -> None:
    """Show a tenant: its limits, whether it is suspended, what it has and what it still waits for."""

    async def show(pool: Pool) -> tuple[TenantSummary, WaitingMail]:
        return await admin.get_tenant(pool, tenant), await admin.get_waiting_mail(pool, tenant)

    for line in _lines(*run_with_pool(lambda pool, _: show(pool))):
        console().print(line, markup=False)


@app.command("suspend")
def suspend_tenant(
    tenant: str,
    reason: Annotated[str, typer.Option(help="Why; its callers are told, with each 403.")] = "",
) -> None:
    """Stop all sending for a tenant, for some days at most.

    Requests to send are answered 403. Accepted emails stay queued until it is resumed; one that waits for more than
    seven days has lost its content, and fails. Conversions that are owed still
    go out, events still count, and its history stays readable.
    """

    async def suspend(rt: Runtime, actions: ActionRecorder) -> WaitingMail:
        async with actions.recorded(await _change(rt, "tenants.suspend", tenant, reason)):
            await admin.suspend_tenant(rt.pool, tenant, reason)
        return await admin.get_waiting_mail(rt.pool, tenant)

    waiting = run_change(suspend)
    console().print(
        f"tenant {tenant} is suspended: within {admin.SUSPENSION_DELAY_S} seconds nothing is accepted or sent for it",
        markup=False,
    )
    if waiting.oldest_at is not None:
        console().print(f"accepted emails wait: {_deadline(waiting.oldest_at)}", markup=False)


@app.command("resume")
def resume_tenant(tenant: str, reason: ReasonOption = "") -> None:
    """End a suspension; what waited meanwhile is sent."""

    async def resume(rt: Runtime, actions: ActionRecorder) -> tuple[WaitingMail, bool]:
        waiting = await admin.get_waiting_mail(rt.pool, tenant)
        async with actions.recorded(await _change(rt, "tenants.resume", tenant, reason)):
            return waiting, await admin.resume_tenant(rt.pool, tenant)

    waiting, was_suspended = run_change(resume)
    text = "is resumed; what waited is sent now" if was_suspended else "was not suspended"
    console().print(f"tenant {tenant} {text}", markup=False)
    if waiting.expired:
        console().print(f"{waiting.expired} emails waited for too long: their contents are gone, and they fail")


@app.command("delete")
def delete_tenant(
    tenant: str,
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; without it, the tenant's name must be typed.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Give up what is owed: emails to send, conversions, dead jobs.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also while processes of other versions are connected to the database.")
    ] = False,
    reason: ReasonOption = "",
) -> None:
    """Delete a suspended tenant with all that Postgres has of it; say what remains on the log, and until when.

    Refused while anything is owed. It can't be undone, and nobody can have the name again. Repeat it where it was
    interrupted.
    """
    suspended_at = run_with_runtime(
        lambda rt: tenant_deletion.require_nothing_owed(rt, tenant, discard=discard, force=force)
    )
    if not yes and typer.prompt(f"Everything of tenant {tenant} will be deleted. Its name, to go on") != tenant:
        raise Refused("another name was typed; nothing is deleted")

    async def delete(rt: Runtime, actions: ActionRecorder) -> TenantDeletion:
        after = {"discard": discard, "force": force}
        async with actions.recorded(await _change(rt, "tenants.delete", tenant, reason, after)):
            return await tenant_deletion.delete_tenant(rt, tenant, suspended_at, discard=discard)

    deletion = run_change(delete)
    rows = "".join(f", {count} rows of {name}" for name, count in deletion.rows.items())
    console().print(f"tenant {tenant} is deleted: {deletion.emails} emails{rows}", markup=False)
    console().print("The log keeps its records, which nothing shows any more:", markup=False)
    for each in deletion.remaining:
        console().print(f"  {each.topic:<24} {each.until}", markup=False)


async def _change(
    rt: Runtime, what: str, tenant: str, reason: str, after: dict[str, Any] | None = None
) -> OperatorChange:
    before = await shown_row(rt.pool, "tenant_shown", tenant)
    return OperatorChange(what, tenant, tenant, reason=reason, before=before, after=after)


def _lines(summary: TenantSummary, waiting: WaitingMail) -> list[str]:
    tenant = summary.tenant
    suspension = "no"
    if summary.suspended_at is not None:
        suspension = f"since {minute(summary.suspended_at)}" + (f": {tenant.suspension}" if tenant.suspension else "")
    jobs = ", ".join(f"{count} {queue} {state}" for (queue, state), count in summary.jobs.items())
    fields = {
        "tenant": tenant.tenant,
        "added": minute(summary.created_at),
        "suspended": suspension,
        "batch max": cell(tenant.batch_max) or "the installation's",
        "per second": cell(tenant.rate_per_second) or "the installation's",
        "senders": _senders(tenant.verified_senders),
        "keys in force": cell(summary.keys),
        "brands": cell(summary.brands),
        "destinations": cell(summary.destinations),
        "not done": jobs or "nothing",
        "oldest email": "none waits" if waiting.oldest_at is None else _deadline(waiting.oldest_at),
    }
    return [f"{name:<14} {value}" for name, value in fields.items()]


def _deadline(oldest_at: datetime) -> str:
    return f"accepted {minute(oldest_at)}, must go out before {minute(oldest_at + admin.CONTENT_RETENTION)}"


def _senders(is_verified: bool) -> str:
    return "of verified domains" if is_verified else "of any domain"
