"""`mailfold keys add|list|rotate|revoke`: make, limit, replace and end a tenant's API keys.

A key is printed once, alone on standard output, so that it can be redirected into a file. It is never an argument:
where a command needs one, it reads it from standard input.
"""

import ipaddress
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope
from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.admin.api_keys import IpNetwork, ListedKey
from pipeline.admin.shown import shown_limits, shown_row
from pipeline.cli.context import (
    ReasonOption,
    cell,
    console,
    minute,
    operating_user,
    read_credential,
    run_change,
    run_with_pool,
    table,
)
from pipeline.errors import NotFound, Refused
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.postgres.database import Pool

app = typer.Typer(help="A tenant's API keys; only their hashes are stored.", no_args_is_help=True)

UNSCOPED: Final = "all (unscoped)"
_PERIOD: Final = re.compile(r"(\d{1,5})([hd])")
_STDIN: Final = "-"

ScopeOption = Annotated[
    list[KeyScope] | None,
    typer.Option(help="What the key may do: once for each scope. Without it, everything of its tenant."),
]
NameArgument = Annotated[
    str, typer.Argument(help="The key's name in `keys list`; - reads the key itself from standard input.")
]


@app.command("add")
def add_key(
    tenant: str,
    *,
    label: Annotated[str, typer.Option(help="The purpose of the key, or who has it; shown in lists.")] = "",
    scope: ScopeOption = None,
    brand: Annotated[str, typer.Option(help="The only brand that it may be used for. [all]")] = "",
    expires: Annotated[
        str, typer.Option(help="Its end: a day (2027-06-30, until its end in UTC) or a period (90d). [never]")
    ] = "",
    network: Annotated[
        list[str] | None,
        typer.Option(help="A network from which it may be used, as 203.0.113.0/24; repeatable. [everywhere]"),
    ] = None,
    reason: ReasonOption = "",
) -> None:
    """Create an API key and show it; it can't be shown again."""
    limits = KeyLimits(
        frozenset(scope) if scope else None,
        brand,
        tuple(map(_network, network or ())),
        _end(expires, datetime.now(UTC)) if expires else None,
    )
    new = admin.NewKey(limits)

    async def add(rt: Runtime, actions: ActionRecorder) -> str:
        after = {"name": new.name, "label": label, **shown_limits(limits)}
        change = OperatorChange("keys.add", new.name, tenant=tenant, reason=reason, after=after)
        async with actions.recorded(change):
            return await admin.add_key(rt.pool, tenant, label, limits, made_by=operating_user(), new=new)

    key = run_change(add)
    console().print(key, markup=False)
    if limits.scopes is None:
        typer.echo(f"warning: this key may do everything of tenant {tenant}; --scope limits it", err=True)


@app.command("list")
def list_keys() -> None:
    """Show the names and limits of the keys; the keys themselves are not stored."""
    columns = ("name", "tenant", "label", "scopes", "brand", "networks", "made", "expires", "last used", "revoked")
    listing = table(*columns)
    listed = run_with_pool(lambda pool, _: admin.list_keys(pool))
    for key in listed:
        listing.add_row(*map(escape, _cells(key)))
    console().print(listing)
    unscoped = sum(key.scopes is None and key.revoked_at is None for key in listed)
    if unscoped:
        typer.echo(
            f"{unscoped} unscoped: may do everything of their tenants; "
            "`mailfold keys rotate NAME --scope …` replaces one",
            err=True,
        )


@app.command("rotate")
def rotate_key(
    name: NameArgument,
    *,
    overlap: Annotated[str, typer.Option(help="The time for which the old key still works, as 12h or 7d.")] = "7d",
    scope: ScopeOption = None,
    reason: ReasonOption = "",
) -> None:
    """Create a key in the place of another, with its limits, and show it; the other one ends after the overlap."""
    period = _period(overlap)
    if period is None:
        raise Refused(f"{overlap!r} is not a period such as 12h or 7d", "--overlap")

    async def rotate(rt: Runtime, actions: ActionRecorder) -> tuple[str, str]:
        old_name = await _resolved(rt.pool, name)
        scopes = frozenset(scope) if scope else None
        before = await _shown_key(rt.pool, old_name)
        after = {"overlap": overlap, "scopes": sorted(scopes) if scopes else before["scopes"]}
        tenant = str(before["tenant"])
        change = OperatorChange("keys.rotate", old_name, tenant=tenant, reason=reason, before=before, after=after)
        async with actions.recorded(change):
            key = await admin.rotate_key(rt.pool, old_name, period, scopes=scopes, made_by=operating_user())
        return old_name, key

    old_name, key = run_change(rotate)
    console().print(key, markup=False)
    typer.echo(f"key {old_name} works for {overlap} more; `mailfold keys revoke {old_name}` ends it now", err=True)


@app.command("revoke")
def revoke_key(name: NameArgument, *, reason: ReasonOption = "") -> None:
    """Revoke a key; every gateway refuses it, and its tokens, within three seconds."""

    async def revoke(rt: Runtime, actions: ActionRecorder) -> str:
        stored_name = await _resolved(rt.pool, name)
        before = await _shown_key(rt.pool, stored_name)
        tenant = str(before["tenant"])
        async with actions.recorded(OperatorChange("keys.revoke", stored_name, tenant, reason=reason, before=before)):
            await admin.revoke_key(rt.pool, stored_name)
        return stored_name

    console().print(f"key {run_change(revoke)} is revoked", markup=False)


async def _shown_key(pool: Pool, name: str) -> dict[str, Any]:
    """Return a key's row as it may be shown. Raise NotFound, which does not repeat a key given instead of its name."""
    row = await shown_row(pool, "key_shown", name)
    if row is None:
        raise admin.unknown_key(name)
    return row


async def _resolved(pool: Pool, name: str) -> str:
    """Return the name of a key that is given by its name, or by itself on standard input. Raise NotFound."""
    if name != _STDIN:
        return name
    key = await admin.find_key(pool, read_credential("API key", _STDIN))
    if key is None:
        raise NotFound("this is no key of this installation, or it is revoked already")
    return key.name


def _cells(key: ListedKey) -> tuple[str, ...]:
    expires = "" if key.expires_at is None else minute(key.expires_at) + (" (rotated)" if key.rotated_at else "")
    scopes = UNSCOPED if key.scopes is None else " ".join(key.scopes)
    return (
        *(key.name, key.tenant, key.label, scopes, key.brand or "all", " ".join(key.networks)),
        f"{key.created_at.astimezone(UTC):%Y-%m-%d} {key.made_by}".strip(),
        *(expires, cell(key.last_used_on), minute(key.revoked_at)),
    )


def _network(text: str) -> IpNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise Refused(f"{text!r} is not a network such as 203.0.113.0/24: {error}", "--network") from None


def _end(text: str, now: datetime) -> datetime:
    """Return when a key ends: after a period from now on, or with a day. Raise Refused."""
    period = _period(text)
    try:
        end = now + period if period else datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise Refused(f"{text!r} is neither a day such as 2027-06-30 nor a period such as 90d", "--expires") from None
    if end <= now:
        raise Refused(f"{text!r} is past", "--expires")
    return end


def _period(text: str) -> timedelta | None:
    match = _PERIOD.fullmatch(text)
    if match is None:
        return None
    return timedelta(hours=int(match[1])) if match[2] == "h" else timedelta(days=int(match[1]))
