"""`mailfold trace|status|rebuild`: show one email or the whole installation, and rebuild the projections."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.cli import context, render
from pipeline.errors import NotFound
from pipeline.operations import rebuild as rebuild_operation
from pipeline.operations import status as status_operation
from pipeline.operations import trace as trace_operation

app = typer.Typer()


@app.command()
def trace(
    name: Annotated[str, typer.Argument(metavar="ID", help="activity.id, email_id, address or provider message id.")],
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's emails. [all]")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Show all that happened to an email, its present status and what it waits for."""
    result = context.run_with_runtime(lambda rt: trace_operation.find(rt, name, tenant))
    if json:
        typer.echo(msgspec.json.encode(result))
        return
    if not result.traces and not result.parked:
        raise NotFound(f"nothing is known as {name}: not in the tables, not at the end of the log")
    render.print_traces(context.console(), result)


@app.command()
def status(json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False) -> None:
    """Show each role's lag, the oldest conversion that is still owed, and the lanes that are stopped."""
    snapshot = context.run_with_runtime(status_operation.read_status)
    if json:
        typer.echo(msgspec.json.encode(snapshot))
    else:
        render.print_snapshot(context.console(), snapshot)


@app.command()
def rebuild(
    check: Annotated[bool, typer.Option("--check", help="Only compare; swap nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Swap even if they differ: rows that only the live tables have are lost.")
    ] = False,
) -> None:
    """Rebuild the projections from the log, compare them with the live tables, and swap them in.

    The live tables serve queries meanwhile, and no conversion is sent again. `email-changes` keeps 400
    days: older rows are in the live tables only, so such a rebuild differs and is refused.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("rebuilding", total=None)

        def report_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        result = context.run_with_runtime(
            lambda rt: rebuild_operation.rebuild(rt, report_progress, check=check, force=force)
        )
    render.print_rebuild_result(context.console(), result)
    if result.differences and not result.swapped:
        raise rebuild_operation.RebuildMismatch("the rebuilt tables differ from the live ones; nothing was swapped")
