"""`mailfold topics create|check|acls`: create and check the topics on the cluster, and print the rights on them."""

from typing import Annotated

import typer

from pipeline.cli.context import command_settings, run_with_kafka
from pipeline.errors import Refused
from pipeline.operations.kafka_rights import RightsHolder, acl_commands, rights_of
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


@app.command()
def acls(
    principal: Annotated[str, typer.Option(help="The user as the brokers name it, such as `User:mailfold`.")],
    role: Annotated[
        list[RightsHolder] | None,
        typer.Option(
            help="Whose rights; `commands` is for the other commands, `setup` for `topics create`. Without it, all but "
            "`setup`."
        ),
    ] = None,
) -> None:
    """Print the `kafka-acls` commands that give a user the rights of the roles and no other; nothing is changed."""
    kind, _, name = principal.partition(":")
    if not (kind and name):
        raise Refused("--principal: a kind and a name, such as User:mailfold")
    settings = command_settings()
    holders = role or [holder for holder in RightsHolder if holder is not RightsHolder.SETUP]
    bootstrap = settings.kafka_bootstrap or "broker:9092"
    for command in acl_commands(rights_of(holders), principal, bootstrap, settings.topic_prefix):
        typer.echo(command)
