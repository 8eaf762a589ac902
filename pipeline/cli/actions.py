"""`mailfold actions list|show`: what operators changed, by commands and by API, as the log has it."""

from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from pipeline.cli.context import console, run_with_kafka, table
from pipeline.cli.renormalize import parse_moment
from pipeline.operations.actions import ActionFilter, find_action, find_actions
from pipeline.operations.pending import format_time
from pipeline.runtime.bootstrap import wall_clock
from topics.actions import OperatorAction

app = typer.Typer(help="What operators changed: who, what, when and why.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("list")
def list_actions(
    *,
    since: Annotated[str, typer.Option(help="A time, such as 2026-11-03, or 36h or 7d ago.")] = "30d",
    who: Annotated[str, typer.Option(help="A part of the actor's name: a user, a host, or a key's name.")] = "",
    what: Annotated[str, typer.Option(help="A kind of change, such as keys.revoke, or keys for all of a group.")] = "",
    tenant: Annotated[str, typer.Option(help="Only what concerns this tenant.")] = "",
    limit: Annotated[int, typer.Option(help="The most to show, the newest.", min=1, max=100_000)] = 1000,
    json: JsonOption = False,
) -> None:
    """Show the changes that operators made, oldest first."""
    wanted = ActionFilter(since=parse_moment(since, wall_clock(), "--since"), who=who, what=what, tenant=tenant)
    actions = run_with_kafka(lambda settings: find_actions(settings, wanted, limit))
    if json:
        typer.echo(msgspec.json.encode(actions))
        return
    listing = table("time (UTC)", "who", "what", "target", "tenant", "why", "id")
    for action in actions:
        cells = (action.actor, _what(action), action.target, action.tenant, action.reason, action.action_id)
        listing.add_row(format_time(action.recorded_at), *map(escape, cells))
    console().print(listing if actions else "no changes", markup=False)


@app.command("show")
def show(action_id: Annotated[str, typer.Argument(help="Its id in the list.", metavar="ID")]) -> None:
    """Show one change in full, with what was stored before and what was wanted."""
    action = run_with_kafka(lambda settings: find_action(settings, action_id))
    lines = (
        ("id", action.action_id),
        ("time", format_time(action.recorded_at)),
        ("who", action.actor),
        ("what", _what(action)),
        ("target", action.target),
        ("tenant", action.tenant),
        ("email", action.email_id),
        ("why", action.reason),
        ("before", msgspec.json.format(action.before, indent=2).decode()),
        ("after", msgspec.json.format(action.after, indent=2).decode()),
    )
    for name, text in lines:
        if text:
            console().print(f"{name:7} {text}", markup=False)


def _what(action: OperatorAction) -> str:
    return f"{action.what} (not made: {action.failure})" if action.failure else action.what
