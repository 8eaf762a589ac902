"""`mailfold doctor`: examine everything that the installation stands on, and say what to do."""

from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape

from pipeline.cli import context
from pipeline.operations.doctor.finding import DoctorReport, examine

app = typer.Typer()

_LABELS: Final = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]", "skip": "[dim]skip[/]"}


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for a warning, too.")] = False,
) -> None:
    """Check this machine, Kafka, Postgres, what is set up and roles that run here; exit 1 where a check fails.

    Each line is ok, warn, fail or skip (it can't be checked from here), with what to do. A server that does not answer
    keeps no other check from its result. Nothing is changed, and the schema is not migrated.
    """
    from pipeline.operations.doctor.checks import CHECKS  # noqa: PLC0415  only this command asks roles, by aiohttp

    report = context.run_command(examine(context.command_settings(), CHECKS))
    if json:
        typer.echo(msgspec.json.encode(report))
    else:
        _print_report(report)
    if report.has("fail") or (strict and report.has("warn")):
        raise typer.Exit(1)


def _print_report(report: DoctorReport) -> None:
    console = context.console()
    for finding in report.findings:
        console.print(f"{_LABELS[finding.verdict]}  {finding.area:<9} {escape(finding.text)}")
        if finding.todo:
            console.print(f"                [dim]→ {escape(finding.todo)}[/]")
