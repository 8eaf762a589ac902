"""`mailfold topics create|check|acls`: create and check the topics on the cluster, and print the rights on them."""

from typing import Annotated

import typer

from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.cli.context import command_settings, run_change_with_log, run_with_kafka
from pipeline.errors import Refused
from pipeline.operations.kafka_rights import RightsHolder, acl_commands, rights_of
from pipeline.operations.skipping import skip_record
from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from topics.record import LogPosition

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
def skip(
    topic: Annotated[str, typer.Argument(help="The topic, as the message of the stopped role names it.")],
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0)],
    *,
    reason: Annotated[str, typer.Option(help="Why nobody will ever read it; shown by `mailfold dead list`.")],
) -> None:
    """Let all roles pass over one record of a version that none of them knows; it is kept as a dead letter.

    Only for what no newer Mailfold wrote: where one runs, upgrade this role instead. A role that has ended at the
    record passes over it when it is started again, a halted projection within 30 seconds.
    """
    place = LogPosition(topic=topic, partition=partition, offset=offset)

    async def skip_recorded(settings: Settings, actions: ActionRecorder) -> LogPosition:
        async with actions.recorded(OperatorChange("topics.skip", str(place), reason=reason)):
            return await skip_record(settings, place, reason, wall_clock)

    letter = run_change_with_log(skip_recorded)
    typer.echo(f"{place} is skipped and kept as {letter}")


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
