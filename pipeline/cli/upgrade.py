"""`mailfold migrate` and `mailfold upgrade finish`: the two ends of an upgrade. See docs/how-to/upgrade.md."""

from typing import Annotated

import typer

from pipeline.cli.context import run_with_database
from pipeline.runtime.postgres import schema
from pipeline.settings import Settings

app = typer.Typer()
upgrade_app = typer.Typer(no_args_is_help=True, help="Finish an upgrade.")


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this version. Roles refuse one that is older; `up` and `demo` do this first.

    Processes of the version before can still work with it. Safe to repeat; several at once wait for each other.
    """

    async def work(settings: Settings) -> tuple[list[str], str]:
        return await schema.migrate_database(settings), await schema.newest_migration(settings)

    applied, newest = run_with_database(work)
    for name in applied:
        typer.echo(f"applied {name}")
    typer.echo(f"the database is at {newest}")


@upgrade_app.callback()
def upgrade_options() -> None:
    """Group the commands, of which there is only one."""


@upgrade_app.command()
def finish(
    force: Annotated[
        bool, typer.Option("--force", help="Even if connections of other versions are open in the database.")
    ] = False,
) -> None:
    """Let all processes use what is new in this version. Only when no process of an older version runs any more.

    Older versions refuse the database from then on, so there is no way back. It is refused while processes of another
    version are connected to the database; a worker is not, so look yourself that every worker is new.
    """
    finished = run_with_database(lambda settings: schema.finish_upgrade(settings, force=force))
    for name in finished.migrations:
        typer.echo(f"applied {name}")
    if finished.level == finished.level_before:
        typer.echo(f"the feature level is {finished.level}, the newest of this version")
    else:
        typer.echo(f"the feature level is {finished.level}, raised from {finished.level_before}")
