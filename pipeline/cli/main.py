"""The `mailfold` command: put the subcommands together, order the help page, print errors without a traceback."""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any, Final

import typer

from pipeline.cli import (
    actions,
    admin,
    analytics,
    backup,
    brands,
    dead_letters,
    dev,
    doctor,
    domains,
    export,
    inbound,
    keys,
    lanes,
    providers_check,
    recover,
    renormalize,
    roles,
    secrets,
    settings,
    stats,
    suppressions,
    templates,
    tenants,
    topics,
    up,
    upgrade,
)
from pipeline.cli import inspect as inspect_commands
from pipeline.errors import MailfoldError
from topics.codec import NewerRecord

app = typer.Typer(
    name="mailfold",
    help="Send emails through providers, track what became of each, report it to Fast Track and keep its history.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

COMMAND_PANELS: Final = {
    "Start here": ("up", "demo"),
    "Roles, in the order in which an email passes them": ("gateway", "worker", "dispatch", "project", "emit"),
    "Stand-ins for development": ("sandbox", "receiver"),
    "Configuration": (
        *("tenants", "keys", "providers", "brands", "domains", "destinations", "templates", "suppressions"),
        "analytics",
    ),
    "Inbound mail": ("inbound",),
    "Inspection and repair": ("trace", "export", "status", "stats", "doctor", "recover", "dead", "lanes", "actions"),
    "Maintenance": (
        *("topics", "migrate", "upgrade", "backup", "restore", "rebuild", "renormalize", "secrets", "settings"),
    ),
}
"""The panels of the help page, each with its commands, in order."""

_UNNAMED = (up, dev, roles, inspect_commands, export, doctor, recover, backup, renormalize, settings, stats, upgrade)
for _group in _UNNAMED:
    app.add_typer(_group.app)
app.add_typer(tenants.app, name="tenants")
app.add_typer(admin.destinations, name="destinations")
app.add_typer(actions.app, name="actions")
app.add_typer(analytics.app, name="analytics")
app.add_typer(brands.app, name="brands")
app.add_typer(secrets.app, name="secrets")
app.add_typer(providers_check.app, name="providers")
app.add_typer(domains.app, name="domains")
app.add_typer(dead_letters.app, name="dead")
app.add_typer(inbound.app, name="inbound")
app.add_typer(keys.app, name="keys")
app.add_typer(lanes.app, name="lanes")
app.add_typer(suppressions.app, name="suppressions")
app.add_typer(templates.app, name="templates")
app.add_typer(topics.app, name="topics")
app.add_typer(upgrade.upgrade_app, name="upgrade")


def _print_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"mailfold {version('mailfold')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Accept the options that come before a subcommand."""


def command() -> Any:
    """Return the command with its subcommands in the panels and the order of :data:`COMMAND_PANELS`."""
    group: Any = typer.main.get_command(app)
    ordered: dict[str, Any] = {}
    for panel, names in COMMAND_PANELS.items():
        for name in names:
            ordered[name] = group.commands[name]
            ordered[name].rich_help_panel = panel
    group.commands = ordered | group.commands
    return group


def main() -> None:
    """Run the `mailfold` command. Print errors as one sentence and exit 1; exit 130 after Ctrl-C."""
    # Files that libraries write, such as caches, must be readable by this user only.
    os.umask(0o077)
    # Without a handler, Python would print libraries' warnings; a role configures logging itself.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        command()()
    except (MailfoldError, NewerRecord) as error:
        sys.exit(f"mailfold: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
