"""`mailfold trace|status|rebuild`: what is asked at three in the morning, and what sets it right."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.cli import context, render
from pipeline.errors import NotFound
from pipeline.operations import rebuild as rebuilding
from pipeline.operations import status as looking
from pipeline.operations import trace as tracing

app = typer.Typer()


@app.command()
def trace(
    name: Annotated[str, typer.Argument(metavar="ID", help="activity.id, email_id, address or provider message id.")],
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's emails. [all]")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Tell everything that happened to an email, where it stands now and what it waits for."""
    found = context.run_with_runtime(lambda rt: tracing.find(rt, name, tenant))
    if json:
        typer.echo(msgspec.json.encode(found))
        return
    if not found.traces and not found.parked:
        raise NotFound(f"nothing is known as {name}: not in the tables, not at the end of the log")
    render.print_traces(context.console(), found)


@app.command()
def status(json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False) -> None:
    """Show how far behind each role is, what is owed longest, and what stands still."""
    seen = context.run_with_runtime(looking.read_status)
    if json:
        typer.echo(msgspec.json.encode(seen))
    else:
        render.print_snapshot(context.console(), seen)


@app.command()
def rebuild(
    check: Annotated[bool, typer.Option("--check", help="Only compare; swap nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Swap even if they differ: what only grew is lost.")] = False,
) -> None:
    """Make the projections anew from the log, compare them with what grew, and swap them in.

    The live tables go on serving meanwhile, and nobody is called again. `email-changes` keeps 400
    days: what is older is in the grown tables alone; such a rebuild differs, and is refused.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rebuilding", total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        outcome = context.run_with_runtime(lambda rt: rebuilding.rebuild(rt, told, check=check, force=force))
    render.print_rebuild_result(context.console(), outcome)
    if outcome.differences and not outcome.swapped:
        raise rebuilding.RebuildMismatch("the rebuilt tables differ from those that grew; nothing was swapped")
