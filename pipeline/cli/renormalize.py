"""`mailfold renormalize`: normalize stored webhooks again with a corrected mapping, and print what changed."""

import re
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.cli import context
from pipeline.errors import Refused, Unrecognised
from pipeline.operations.renormalize.run import RenormalizeRange, RenormalizeSummary
from pipeline.operations.renormalize.run import renormalize as renormalize_webhooks
from pipeline.runtime.bootstrap import Runtime, wall_clock
from pipeline.webhooks.timestamps import from_iso
from topics.record import Millis

app = typer.Typer()

_AGO_PATTERN: Final = re.compile(r"(\d{1,6})([mhd])")
_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME_HELP: Final = "such as 2025-11-03, 2025-11-03T14:00+01:00 (UTC without a zone), or 36h or 7d ago"


@app.command()
def renormalize(
    provider: Annotated[str, typer.Option(help="The provider, as `mailfold providers list` names it.")],
    since: Annotated[str, typer.Option(help=f"A time, {_TIME_HELP}.")],
    until: Annotated[str, typer.Option(help="A time, likewise. [now]")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; append nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
    *,
    reason: context.ReasonOption = "",
) -> None:
    """Normalize a provider's stored webhooks again, and append what a corrected mapping changes.

    New events are appended, changed events are appended as corrections under their ids: states, histories
    and suppressions follow, and no event counts twice. A second run changes nothing.
    Webhooks are kept for 30 days. Conversions that were sent to Fast Track can't be taken back.
    """
    now = wall_clock()
    time_range = RenormalizeRange(
        provider, parse_moment(since, now, "--since"), parse_moment(until, now, "--until") if until else None
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("waiting for the worker to read earlier webhooks", total=None)

        def report_progress(done: int, total: int) -> None:
            bar.update(task, description="reading webhooks", completed=done, total=total)

        async def run(rt: Runtime, actions: ActionRecorder) -> RenormalizeSummary:
            if dry_run:
                return await renormalize_webhooks(rt, time_range, report_progress, dry_run=True)
            after = {"since": time_range.since, "until": time_range.until}
            async with actions.recorded(OperatorChange("renormalize", provider, reason=reason, after=after)):
                return await renormalize_webhooks(rt, time_range, report_progress)

        summary = context.run_change(run)
    if json:
        typer.echo(msgspec.json.encode(summary))
    else:
        _print_summary(summary, dry_run)


def parse_moment(text: str, now: Millis, option: str) -> Millis:
    """Return the time that ``text`` gives, in ISO 8601 or as minutes, hours or days before ``now``. Raise Refused."""
    if ago := _AGO_PATTERN.fullmatch(text.strip()):
        return now - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        return from_iso(text)
    except Unrecognised:
        raise Refused(f"{option}: {text!r} is not a time, {_TIME_HELP}", option) from None


def _print_summary(summary: RenormalizeSummary, dry_run: bool) -> None:
    console = context.console()
    console.print(f"{summary.webhooks} webhooks read, {summary.seen} events in them", highlight=False)
    if not summary.webhooks:
        console.print("no webhooks of this provider in that time; see `mailfold providers list`", highlight=False)
        return
    appended = "would be appended" if dry_run else "appended"
    rows = (
        ("same", summary.same, "normalized as before"),
        ("repeats", summary.repeats, "also in an earlier webhook, which is the one compared"),
        ("new", summary.new, appended),
        ("changed", summary.changed, f"{appended} as corrections"),
        ("retracted", summary.retracted, f"{appended} as retractions: now under another id"),
        ("waiting", summary.waiting, "of an email that is not known"),
        ("not understood", summary.not_understood, "as dead letters"),
    )
    table = context.table("events", "", "")
    for name, count, meaning in rows:
        table.add_row(name, str(count), meaning)
    console.print(table)
