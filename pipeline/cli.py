"""`mailfold`: the whole story on one help page; errors are one sentence, not a traceback."""

import sys

import typer

from pipeline.commands import play, roles, topics
from pipeline.errors import MailfoldError

app = typer.Typer(
    name="mailfold",
    help="What became of every email: send requests in, delivery events folded, conversions and history out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(roles.app)
app.add_typer(play.app)
app.add_typer(topics.app, name="topics")


def main() -> None:
    """The `mailfold` command. Exit 1 and one clear sentence where something is wrong; 130 for Ctrl-C."""
    try:
        app()
    except MailfoldError as error:
        sys.exit(f"mailfold: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
