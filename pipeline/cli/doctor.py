"""`mailfold doctor`: examine everything that the installation stands on, and say what to do."""

from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape

from pipeline.cli import context
from pipeline.operations.doctor.finding import DoctorCheck, DoctorReport, examine
from pipeline.operations.doctor.host import check_host
from pipeline.operations.doctor.kafka import check_kafka
from pipeline.operations.doctor.postgres import check_postgres
from pipeline.operations.doctor.roles import check_roles
from pipeline.operations.doctor.setup import check_setup

app = typer.Typer()

CHECKS: Final[dict[str, DoctorCheck]] = {
    "host": check_host,
    "kafka": check_kafka,
    "postgres": check_postgres,
    "setup": check_setup,
    "roles": check_roles,
}
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
