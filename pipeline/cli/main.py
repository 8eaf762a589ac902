"""`mailfold`: the whole story on one help page; errors are one sentence, not a traceback."""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer

from pipeline.cli import (
    admin,
    brands,
    dead_letters,
    dev,
    inbound,
    lanes,
    providers_check,
    renormalize,
    roles,
    settings,
    suppressions,
    templates,
    topics,
    up,
)
from pipeline.cli import inspect as asked
from pipeline.errors import MailfoldError

app = typer.Typer(
    name="mailfold",
    help="What became of every email: send requests in, delivery events folded, conversions and history out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

COMMAND_PANELS: Final = {
    "Start here": ("up", "demo"),
    "The roles, in the order of an email's way": ("gateway", "worker", "dispatch", "project", "emit"),
    "Both ends of the way, for development": ("sandbox", "receiver"),
    "What you decide": ("tenants", "keys", "providers", "brands", "destinations", "templates", "suppressions"),
    "What comes back": ("inbound",),
    "What you ask": ("trace", "status", "dead", "lanes"),
    "What keeps it sound": ("topics", "migrate", "rebuild", "renormalize", "settings"),
}
"""The help page: panels in order, each with its commands in order."""

for _group in (up, dev, roles, asked, renormalize, settings):
    app.add_typer(_group.app)
for _name in ("tenants", "keys", "destinations"):
    app.add_typer(getattr(admin, _name), name=_name)
app.add_typer(brands.app, name="brands")
app.add_typer(providers_check.app, name="providers")
app.add_typer(dead_letters.app, name="dead")
app.add_typer(inbound.app, name="inbound")
app.add_typer(lanes.app, name="lanes")
app.add_typer(suppressions.app, name="suppressions")
app.add_typer(templates.app, name="templates")
app.add_typer(topics.app, name="topics")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mailfold {version('mailfold')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a subcommand."""


def command() -> Any:
    """The command with its subcommands in the order of the story."""
    group: Any = typer.main.get_command(app)
    told = [(panel, name) for panel, names in COMMAND_PANELS.items() for name in names if name in group.commands]
    for panel, name in told:
        group.commands[name].rich_help_panel = panel
    rest = {name: found for name, found in group.commands.items() if name not in {name for _, name in told}}
    group.commands = {name: group.commands[name] for _, name in told} | rest
    return group


def main() -> None:
    """The `mailfold` command. Exit 1 and one clear sentence where something is wrong; 130 for Ctrl-C."""
    # Caches and data that libraries write are for this user only, too.
    os.umask(0o077)
    # Libraries' logs are a role's affair (which configures them); here the one sentence is enough.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        command()()
    except MailfoldError as error:
        sys.exit(f"mailfold: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
