"""`mailfold renormalize`: a provider and a time in, what a corrected mapping changed out."""

import re
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.cli import context
from pipeline.errors import Refused, Unrecognised
from pipeline.operations.renormalize.run import RenormalizeRange, RenormalizeSummary
from pipeline.operations.renormalize.run import renormalize as read_anew
from pipeline.runtime.bootstrap import Runtime, wall_clock
from pipeline.webhooks.timestamps import from_iso
from topics.record import Millis

app = typer.Typer()

_AGO_PATTERN: Final = re.compile(r"(\d{1,6})([mhd])")
_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME_HELP: Final = "such as 2025-11-03, 2025-11-03T14:00+01:00 (UTC without a zone), or 36h or 7d ago"


@app.command()
def renormalize(
    provider: Annotated[str, typer.Option(help="As `mailfold providers list` names it.")],
    since: Annotated[str, typer.Option(help=f"A time, {_TIME_HELP}.")],
    until: Annotated[str, typer.Option(help="A time, likewise. [now]")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; append nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Read a provider's raw webhooks anew, and tell what a corrected mapping says otherwise.

    New events are appended, changed ones as corrections under their ids: states, histories and
    suppressions follow, and no event counts twice. A second run finds nothing left to do.
    Webhooks are kept for 30 days. What Fast Track was told can't be untold.
    """
    now = wall_clock()
    wanted = RenormalizeRange(
        provider, parse_moment(since, now, "--since"), parse_moment(until, now, "--until") if until else None
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("waiting until all is read that came before", total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, description="reading webhooks", completed=done, total=total)

        async def ask(world: Runtime) -> RenormalizeSummary:
            return await read_anew(world, wanted, told, dry_run=dry_run)

        found = context.run_with_runtime(ask)
    if json:
        typer.echo(msgspec.json.encode(found))
    else:
        _show(found, dry_run)


def parse_moment(text: str, now: Millis, option: str) -> Millis:
    """A moment, as people write it. Raises Refused."""
    if ago := _AGO_PATTERN.fullmatch(text.strip()):
        return now - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        return from_iso(text)
    except Unrecognised:
        raise Refused(f"{option}: {text!r} is no time, {_TIME_HELP}", option) from None


def _show(found: RenormalizeSummary, dry_run: bool) -> None:
    console = context.console()
    console.print(f"{found.webhooks} webhooks read, {found.seen} events in them", highlight=False)
    if not found.webhooks:
        console.print("none came from it in that time; `mailfold providers list` names them all", highlight=False)
        return
    told = "would be appended" if dry_run else "appended"
    rows = (
        ("same", found.same, "read as before"),
        ("repeats", found.repeats, "told by an earlier webhook, which is the one compared"),
        ("new", found.new, told),
        ("changed", found.changed, f"{told} as corrections"),
        ("retracted", found.retracted, f"{told} as retractions: told again under another id"),
        ("waiting", found.waiting, "of no email that is known"),
        ("not understood", found.not_understood, "as dead letters"),
    )
    table = context.table("events", "", "")
    for name, count, what in rows:
        table.add_row(name, str(count), what)
    console.print(table)
