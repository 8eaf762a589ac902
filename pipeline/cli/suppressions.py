"""`mailfold suppressions list|add|remove|import|export|show`: addresses in, who gets no mail and why out.

Addresses are read from standard input or a file, a line each: what stands in an argument stands in
the shell's history and in the list of processes. Answers name them by their hashes.
"""

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
from rich.markup import escape

from pipeline.cli.context import console, run_with_runtime, table
from pipeline.errors import NotFound, Refused
from pipeline.operations.pending import format_time
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.private_files import open_private
from pipeline.suppressions import import_file, views
from pipeline.suppressions.commands import (
    SuppressionCommand,
    SuppressionCommandHandler,
    SuppressionReport,
    address_hashes,
)
from pipeline.suppressions.queries import SuppressionLookup, SuppressionQueries
from pipeline.suppressions.views import AddressView, ExportFormat, SuppressionView
from projections.suppressions import SuppressionListQuery
from projections.text import storable_text
from topics.suppressions import SuppressionReason

app = typer.Typer(help="Who gets no mail from a brand, why, and since when.", no_args_is_help=True)

STDIN = "-"

TenantOption = Annotated[str, typer.Option(help="The tenant.")]
BrandFilterOption = Annotated[str | None, typer.Option(help="What holds for this brand, all brands' included. [all]")]
BrandOption = Annotated[str, typer.Option(help="The brand; `*` is all of the tenant's.")]
ReasonFilterOption = Annotated[SuppressionReason | None, typer.Option(help="Only for this reason.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
NamesArgument = Annotated[
    str, typer.Argument(help="A hash, or a file of addresses or hashes, a line each; - is standard input.")
]
NoteOption = Annotated[str, typer.Option(help="For people; no address in it.")]


@app.command("list")
def list_suppressions(
    *,
    tenant: TenantOption = "default",
    brand: BrandFilterOption = None,
    reason: ReasonFilterOption = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=100_000)] = 1000,
    json: JsonOption = False,
) -> None:
    """Show who gets nothing, by hash."""
    asked = SuppressionListQuery(tenant=tenant, brand=_stored(brand), reason=reason, limit=limit)
    entries, more = run_with_runtime(lambda rt: _page(SuppressionQueries(rt), asked))
    if json:
        typer.echo(msgspec.json.encode({"suppressions": entries, "more": more}))
        return
    listed = table("address hash", "brand", "reason", "since (UTC)", "from")
    for one in entries:
        listed.add_row(one.address_hash, escape(one.brand), one.reason, format_time(one.since), escape(_origin(one)))
    console().print(listed if entries else "nobody is suppressed", markup=False)
    if more:
        console().print(f"and more: --limit {2 * limit} shows more, `mailfold suppressions export` all", markup=False)


@app.command("add")
def add(
    names: NamesArgument = STDIN,
    *,
    brand: BrandOption,
    reason: Annotated[SuppressionReason, typer.Option(help="Why.")] = SuppressionReason.MANUAL,
    note: NoteOption = "",
    tenant: TenantOption = "default",
    json: JsonOption = False,
) -> None:
    """Suppress addresses, for a brand or for all."""
    lines = [_line(number, name) for number, name in enumerate(_names(names), start=1)]
    _import(SuppressionCommand(tenant=tenant, brand=brand, by=_who(), reason=reason, note=note), lines, json=json)


@app.command("remove")
def remove(names: NamesArgument = STDIN, *, brand: BrandOption, tenant: TenantOption = "default") -> None:
    """Let addresses get mail again, until they bounce, complain or unsubscribe anew."""
    wish = SuppressionCommand(tenant=tenant, brand=brand, by=_who())
    addresses = _names(names)
    unknown, waiting = run_with_runtime(lambda rt: _remove(rt, wish, addresses))
    if waiting:
        console().print("durable, and in force as soon as a projector has seen it", markup=False)
    if unknown:
        raise NotFound(f"nothing is known of {len(unknown)} of them: lines {', '.join(map(str, unknown[:20]))}")


@app.command("import")
def import_addresses(
    file: Annotated[str, typer.Argument(help="A provider's export, CSV or JSON; - is standard input.")] = STDIN,
    *,
    brand: Annotated[str, typer.Option(help="Where the lines name none: the brand, `*` for all.")] = "",
    reason: Annotated[SuppressionReason | None, typer.Option(help="Where the lines name none. [manual]")] = None,
    note: NoteOption = "",
    tenant: TenantOption = "default",
    json: JsonOption = False,
) -> None:
    """Suppress what SendGrid, Mailgun, Amazon SES, Postmark or another Mailfold exported."""
    wish = SuppressionCommand(tenant=tenant, brand=brand, by=_who(), reason=reason, note=note)
    _import(wish, import_file.parse_file(_bytes(file)), json=json)


@app.command("export")
def export(
    *,
    output: Annotated[str, typer.Option(help="A file of this name, for you alone; - is standard output.")] = STDIN,
    form: Annotated[str, typer.Option("--format", help="`csv` or `jsonl`.")] = "csv",
    brand: BrandFilterOption = None,
    reason: ReasonFilterOption = None,
    addresses: Annotated[
        bool, typer.Option("--addresses", help="Also addresses, as far as the history knows.")
    ] = False,
    tenant: TenantOption = "default",
) -> None:
    """Write all of them, by hash; `import` takes the file again."""
    if form not in ("csv", "jsonl"):
        raise Refused("--format: csv or jsonl")
    known: ExportFormat = "csv" if form == "csv" else "jsonl"
    asked = SuppressionListQuery(tenant=tenant, brand=_stored(brand), reason=reason)

    async def write(rt: Runtime) -> None:
        with _file(output) as out:
            async for text in views.export(SuppressionQueries(rt), asked, known, addresses=addresses):
                out.write(text.encode())

    run_with_runtime(write)


@app.command("show")
def show(
    names: NamesArgument = STDIN,
    *,
    brand: BrandFilterOption = None,
    tenant: TenantOption = "default",
    json: JsonOption = False,
) -> None:
    """Tell all that is known of addresses: verdict, evidence, decisions."""
    # Standard input is read before the event loop runs: within it Ctrl-C could not end the reading.
    addresses = _names(names)
    accounts = run_with_runtime(lambda rt: _accounts(SuppressionQueries(rt), tenant, brand, addresses))
    if json:
        typer.echo(msgspec.json.encode(accounts))
        return
    for each in accounts:
        _tell(each)


async def _page(asking: SuppressionQueries, asked: SuppressionListQuery) -> tuple[list[SuppressionView], bool]:
    """As many as are wanted, however many are lifted between them."""
    entries: list[SuppressionView] = []
    while len(entries) < asked.limit:
        page = await asking.page(msgspec.structs.replace(asked, limit=asked.limit - len(entries)))
        entries += [views.suppression_view(key[2], why) for key, why in page.entries]
        if page.next_position is None:
            return entries, False
        asked = msgspec.structs.replace(asked, start_after=page.next_position)
        if len(entries) == asked.limit:
            break
    return entries, True


async def _remove(rt: Runtime, wish: SuppressionCommand, names: Sequence[str]) -> tuple[list[int], bool]:
    deciding, asking = SuppressionCommandHandler(rt, rt.log), SuppressionQueries(rt)
    unknown, waiting = [], False
    for number, name in enumerate(names, start=1):
        try:
            waiting |= not await deciding.lift(wish, address_hashes(asking, name))
        except NotFound:
            unknown.append(number)
    return unknown, waiting


async def _accounts(
    asking: SuppressionQueries, tenant: str, brand: str | None, names: Sequence[str]
) -> list[AddressView]:
    found = []
    for name in names:
        named = address_hashes(asking, name)
        known = await asking.of_address(tenant, named)
        if brand is not None:
            known = await asking.look_up([SuppressionLookup((tenant, storable_text(brand), named.hash), named.old)])
        found.append(views.address_view(named.hash, known))
    return found


def _import(wish: SuppressionCommand, lines: Any, *, json: bool) -> None:
    report: SuppressionReport = run_with_runtime(
        lambda rt: SuppressionCommandHandler(rt, rt.log).suppress_many(wish, lines)
    )
    if json:
        typer.echo(msgspec.json.encode(report))
    else:
        later = "" if report.projected else "; in force as soon as a projector has seen it"
        console().print(f"{report.listed} listed, {report.unchanged} already were{later}", markup=False)
        for bad in report.lines:
            console().print(f"line {bad.line}: {bad.error}", markup=False)
    if report.refused:
        raise Refused(f"{report.refused} lines could not be used; the others are listed")


def _tell(account: AddressView) -> None:
    verdict = ", ".join(f"{one.reason} ({one.brand})" for one in account.suppressed)
    console().print(f"{account.address_hash}: {'suppressed: ' + verdict if verdict else 'gets mail'}", markup=False)
    told = table("when (UTC)", "brand", "what", "from")
    rows = [(sign.at, sign.brand, sign.reason.value, _email(sign.email_id, sign.event_id)) for sign in account.evidence]
    for choice in account.decisions:
        what = f"listed: {choice.reason}" if choice.listed else "lifted"
        rows.append((choice.at, choice.brand, what, " · ".join(filter(None, (choice.by, choice.note)))))
    for at, brand, what, whence in sorted(rows):
        told.add_row(format_time(at), escape(brand), what, escape(whence))
    if rows:
        console().print(told)


def _origin(one: SuppressionView) -> str:
    return " · ".join(filter(None, (one.by, one.note))) if one.listed else _email(one.email_id or "", one.event_id)


def _email(email_id: str, event_id: str) -> str:
    return f"email {email_id}, event {event_id}"


def _line(number: int, name: str) -> import_file.ImportedAddress | import_file.RejectedLine:
    problem = import_file.name_problem(name)
    return import_file.RejectedLine(number, problem) if problem else import_file.ImportedAddress(number, name)


def _names(given: str) -> list[str]:
    """A hash itself; else the lines of a file. An address in an argument is refused, that it may not become a habit."""
    if import_file.ADDRESS_HASH_PATTERN.fullmatch(given):
        return [given]
    if "@" in given and not Path(given).exists():
        raise Refused("an address in an argument stays in the shell's history; give it by standard input or a file")
    text = _bytes(given).decode("utf-8-sig", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bytes(given: str) -> bytes:
    if given == STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(given).read_bytes()
    except OSError as error:
        raise Refused(f"{given}: {error.strerror}") from None


def _file(name: str) -> BinaryIO:
    """Standard output, or a new file that nobody else may read."""
    if name == STDIN:
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    try:
        return os.fdopen(open_private(Path(name), os.O_WRONLY | os.O_EXCL), "wb")
    except OSError as error:
        raise Refused(f"{name}: {error.strerror}") from None


def _who() -> str:
    try:
        return f"cli {getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _stored(brand: str | None) -> str | None:
    return None if brand is None else storable_text(brand)
