"""`mailfold suppressions list|add|remove|import|export|show`: list and change suppressed addresses.

Addresses are read from standard input or a file, a line each, because the shell's history and the list of processes
show a command's arguments. The output names addresses by their hashes.
"""

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from pipeline.admin.actions import ActionRecorder
from pipeline.cli.context import STDIN, ReasonOption, console, open_output, run_change, run_with_runtime, table
from pipeline.errors import NotFound, Refused
from pipeline.operations.pending import format_time
from pipeline.runtime.bootstrap import Runtime
from pipeline.suppressions import import_file, views
from pipeline.suppressions.commands import (
    SuppressionCommand,
    SuppressionCommandHandler,
    SuppressionReport,
    address_hashes,
    import_change,
)
from pipeline.suppressions.queries import SuppressionLookup, SuppressionQueries
from pipeline.suppressions.views import AddressView, ExportFormat, SuppressionView
from projections.suppressions import SuppressionListQuery
from projections.text import storable_text
from topics.suppressions import SuppressionReason

app = typer.Typer(help="Addresses that get no mail from a brand, why, and since when.", no_args_is_help=True)


TenantOption = Annotated[str, typer.Option(help="The tenant.")]
BrandFilterOption = Annotated[str | None, typer.Option(help="Only those that apply to this brand. [all]")]
BrandOption = Annotated[str, typer.Option(help="The brand; `*` is all brands of the tenant.")]
ReasonFilterOption = Annotated[SuppressionReason | None, typer.Option(help="Only for this reason.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
NamesArgument = Annotated[
    str, typer.Argument(help="A hash, or a file of addresses or hashes, a line each; - is standard input.")
]
NoteOption = Annotated[str, typer.Option(help="A note for people; it must contain no address.")]


@app.command("list")
def list_suppressions(
    *,
    tenant: TenantOption = "default",
    brand: BrandFilterOption = None,
    reason: ReasonFilterOption = None,
    limit: Annotated[int, typer.Option(help="The most to show.", min=1, max=100_000)] = 1000,
    json: JsonOption = False,
) -> None:
    """Show suppressed addresses, by hash."""
    query = SuppressionListQuery(tenant=tenant, brand=_storable(brand), reason=reason, limit=limit)
    entries, has_more = run_with_runtime(lambda rt: _read_entries(SuppressionQueries(rt), query))
    if json:
        typer.echo(msgspec.json.encode({"suppressions": entries, "more": has_more}))
        return
    listing = table("address hash", "brand", "reason", "since (UTC)", "from")
    for entry in entries:
        cells = (escape(entry.brand), entry.reason, format_time(entry.since), escape(_origin(entry)))
        listing.add_row(entry.address_hash, *cells)
    console().print(listing if entries else "no suppressed addresses", markup=False)
    if has_more:
        console().print(
            f"there are more; --limit {2 * limit} shows more, `mailfold suppressions export` all", markup=False
        )


@app.command("add")
def add(
    names: NamesArgument = STDIN,
    *,
    brand: BrandOption,
    reason: Annotated[SuppressionReason, typer.Option(help="The reason.")] = SuppressionReason.MANUAL,
    note: NoteOption = "",
    tenant: TenantOption = "default",
    json: JsonOption = False,
) -> None:
    """Suppress addresses, for a brand or for all."""
    lines = [_parse_line(number, name) for number, name in enumerate(_read_names(names), start=1)]
    _import(SuppressionCommand(tenant=tenant, brand=brand, by=_user(), reason=reason, note=note), lines, json=json)


@app.command("remove")
def remove(
    names: NamesArgument = STDIN, *, brand: BrandOption, tenant: TenantOption = "default", reason: ReasonOption = ""
) -> None:
    """Let addresses get mail again, until they bounce, complain or unsubscribe again."""
    command = SuppressionCommand(tenant=tenant, brand=brand, by=_user())
    addresses = _read_names(names)
    unknown, is_waiting = run_change(lambda rt, actions: _remove(rt, actions, command, addresses, reason))
    if is_waiting:
        console().print("durable, and in force as soon as a projector has read it", markup=False)
    if unknown:
        raise NotFound(f"nothing is known of {len(unknown)} of them: lines {', '.join(map(str, unknown[:20]))}")


@app.command("import")
def import_addresses(
    file: Annotated[str, typer.Argument(help="A provider's export, CSV or JSON; - is standard input.")] = STDIN,
    *,
    brand: Annotated[str, typer.Option(help="The brand of lines that name none; `*` is all brands.")] = "",
    reason: Annotated[SuppressionReason | None, typer.Option(help="The reason of lines without one. [manual]")] = None,
    note: NoteOption = "",
    tenant: TenantOption = "default",
    json: JsonOption = False,
) -> None:
    """Suppress the addresses that SendGrid, Mailgun, Amazon SES, Postmark or another Mailfold exported."""
    command = SuppressionCommand(tenant=tenant, brand=brand, by=_user(), reason=reason, note=note)
    _import(command, import_file.parse_file(_read_bytes(file)), json=json)


@app.command("export")
def export(
    *,
    output: Annotated[str, typer.Option(help="A new file that only you can read; - is standard output.")] = STDIN,
    form: Annotated[str, typer.Option("--format", help="`csv` or `jsonl`.")] = "csv",
    brand: BrandFilterOption = None,
    reason: ReasonFilterOption = None,
    addresses: Annotated[
        bool, typer.Option("--addresses", help="Also write addresses, where the history has them.")
    ] = False,
    tenant: TenantOption = "default",
) -> None:
    """Write all suppressed addresses, by hash, to a file that `import` can read."""
    if form not in ("csv", "jsonl"):
        raise Refused("--format: csv or jsonl")
    export_format: ExportFormat = "csv" if form == "csv" else "jsonl"
    query = SuppressionListQuery(tenant=tenant, brand=_storable(brand), reason=reason)

    async def write(rt: Runtime) -> None:
        with open_output(output) as file:
            async for text in views.export(SuppressionQueries(rt), query, export_format, addresses=addresses):
                file.write(text.encode())

    run_with_runtime(write)


@app.command("show")
def show(
    names: NamesArgument = STDIN,
    *,
    brand: BrandFilterOption = None,
    tenant: TenantOption = "default",
    json: JsonOption = False,
) -> None:
    """Show all that is known of addresses: whether they get mail, the evidence and the decisions."""
    # Standard input is read before the event loop runs, because Ctrl-C could not interrupt the reading in it.
    addresses = _read_names(names)
    address_views = run_with_runtime(lambda rt: _address_views(SuppressionQueries(rt), tenant, brand, addresses))
    if json:
        typer.echo(msgspec.json.encode(address_views))
        return
    for view in address_views:
        _print_address(view)


async def _read_entries(queries: SuppressionQueries, query: SuppressionListQuery) -> tuple[list[SuppressionView], bool]:
    """Return up to ``query.limit`` suppressions, and whether there may be more.

    A page may have fewer than its limit, because lifted suppressions are left out of it.
    """
    entries: list[SuppressionView] = []
    while len(entries) < query.limit:
        page = await queries.page(msgspec.structs.replace(query, limit=query.limit - len(entries)))
        entries += [views.suppression_view(key[2], suppression) for key, suppression in page.entries]
        if page.next_position is None:
            return entries, False
        query = msgspec.structs.replace(query, start_after=page.next_position)
    return entries, True


async def _remove(
    rt: Runtime, actions: ActionRecorder, command: SuppressionCommand, names: Sequence[str], reason: str
) -> tuple[list[int], bool]:
    """Lift suppressions; return the numbers of unknown lines, and whether a projector has yet to read a change."""
    handler, queries = SuppressionCommandHandler(rt, rt.log), SuppressionQueries(rt)
    unknown, is_waiting = [], False
    for number, name in enumerate(names, start=1):
        hashes = address_hashes(queries, name)
        try:
            change = await handler.lift_change(command, hashes, reason)
            async with actions.recorded(change):
                is_waiting |= not await handler.lift(command, hashes)
        except NotFound:
            unknown.append(number)
    return unknown, is_waiting


async def _address_views(
    queries: SuppressionQueries, tenant: str, brand: str | None, names: Sequence[str]
) -> list[AddressView]:
    address_views = []
    for name in names:
        hashes = address_hashes(queries, name)
        assessed = await queries.of_address(tenant, hashes)
        if brand is not None:
            lookup = SuppressionLookup((tenant, storable_text(brand), hashes.hash), hashes.old)
            assessed = await queries.look_up([lookup])
        address_views.append(views.address_view(hashes.hash, assessed))
    return address_views


def _import(command: SuppressionCommand, lines: Any, *, json: bool) -> None:
    async def suppress(rt: Runtime, actions: ActionRecorder) -> SuppressionReport:
        async with actions.recorded(import_change(command)):
            return await SuppressionCommandHandler(rt, rt.log).suppress_many(command, lines)

    report = run_change(suppress)
    if json:
        typer.echo(msgspec.json.encode(report))
    else:
        later = "" if report.projected else "; in force as soon as a projector has read it"
        console().print(f"{report.listed} listed, {report.unchanged} already were{later}", markup=False)
        for rejected in report.lines:
            console().print(f"line {rejected.line}: {rejected.error}", markup=False)
    if report.refused:
        raise Refused(f"{report.refused} lines could not be used; the others are listed")


def _print_address(view: AddressView) -> None:
    reasons = ", ".join(f"{entry.reason} ({entry.brand})" for entry in view.suppressed)
    console().print(f"{view.address_hash}: {'suppressed: ' + reasons if reasons else 'gets mail'}", markup=False)
    listing = table("time (UTC)", "brand", "event", "from")
    rows = [
        (evidence.at, evidence.brand, evidence.reason.value, _email(evidence.email_id, evidence.event_id))
        for evidence in view.evidence
    ]
    for decision in view.decisions:
        event = f"listed: {decision.reason}" if decision.listed else "lifted"
        rows.append((decision.at, decision.brand, event, " · ".join(filter(None, (decision.by, decision.note)))))
    for at, brand, event, origin in sorted(rows):
        listing.add_row(format_time(at), escape(brand), event, escape(origin))
    if rows:
        console().print(listing)


def _origin(entry: SuppressionView) -> str:
    if entry.listed:
        return " · ".join(filter(None, (entry.by, entry.note)))
    return _email(entry.email_id or "", entry.event_id)


def _email(email_id: str, event_id: str) -> str:
    return f"email {email_id}, event {event_id}"


def _parse_line(number: int, name: str) -> import_file.ImportedAddress | import_file.RejectedLine:
    problem = import_file.name_problem(name)
    return import_file.RejectedLine(number, problem) if problem else import_file.ImportedAddress(number, name)


def _read_names(argument: str) -> list[str]:
    """Return the argument where it is a hash, else the lines of the file that it names. Raise Refused for an address.

    An address in an argument would stay in the shell's history.
    """
    if import_file.ADDRESS_HASH_PATTERN.fullmatch(argument):
        return [argument]
    if "@" in argument and not Path(argument).exists():
        raise Refused("an address in an argument stays in the shell's history; give it by standard input or a file")
    text = _read_bytes(argument).decode("utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_bytes(file: str) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from None


def _user() -> str:
    try:
        return f"cli {getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _storable(brand: str | None) -> str | None:
    return None if brand is None else storable_text(brand)
