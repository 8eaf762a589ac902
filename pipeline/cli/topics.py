"""`mailfold topics create|check`: create and check the topics on the cluster."""

import typer

from pipeline.cli.context import run_with_kafka
from pipeline.runtime import topic_admin

app = typer.Typer(help="The topics on the cluster, compared with the registry.", no_args_is_help=True)


@app.command()
def create() -> None:
    """Create the topics that are missing, then check all; existing topics are not altered."""
    for name in run_with_kafka(topic_admin.create):
        typer.echo(f"created {name}")
    typer.echo("all topics match the registry")


@app.command()
def check() -> None:
    """Compare partitions, retention and compaction with the registry; exit 1 on any difference."""
    run_with_kafka(topic_admin.check)
    typer.echo("all topics match the registry")
