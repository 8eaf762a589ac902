"""`mailfold doctor`: examine everything that the installation stands on, and say what to do."""

from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from pipeline.cli import context
from pipeline.operations.doctor.finding import DoctorFinding, DoctorReport, examine
from pipeline.operations.kafka_rights import RightsHolder

app = typer.Typer()

_LABELS: Final = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]", "skip": "[dim]skip[/]"}


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for a warning, too.")] = False,
    role: Annotated[
        list[RightsHolder] | None,
        typer.Option(help="The roles whose rights this Kafka user must have, if each role has a user of its own."),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(help="A domain that requests name as their sender's, to look up beside those of brands."),
    ] = None,
) -> None:
    """Check this machine, DNS, Kafka, Postgres, what is set up and roles that run here; exit 1 where a check fails.

    Each line is ok, warn, fail or skip (it can't be checked from here), with what to do. A server that does not answer
    keeps no other check from its result. Nothing is changed, and the schema is not migrated.
    """
    from pipeline.operations.doctor.checks import list_checks  # noqa: PLC0415  only this command asks roles, by aiohttp

    report = context.run_command(examine(context.command_settings(), list_checks(role or (), domain or ())))
    if json:
        typer.echo(msgspec.json.encode(report))
    else:
        _print_report(report)
    if report.has("fail") or (strict and report.has("warn")):
        raise typer.Exit(1)


def _print_report(report: DoctorReport) -> None:
    console = context.console()
    for finding in report.findings:
        print_finding(console, finding, finding.area)


def print_finding(console: Console, finding: DoctorFinding, area: str) -> None:
    """Print a finding and what to do, after its verdict and the area that it is about."""
    console.print(f"{_LABELS[finding.verdict]}  {escape(area):<9} {escape(finding.text)}")
    if finding.todo:
        console.print(f"                [dim]→ {escape(finding.todo)}[/]")
