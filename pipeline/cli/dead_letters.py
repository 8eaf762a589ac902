"""`mailfold dead list|show|replay`: list, show and replay dead jobs and dead letters."""

from typing import Annotated

import typer

from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.cli.context import ReasonOption, console, run_change, run_with_runtime, table
from pipeline.errors import Refused
from pipeline.operations import dead_letters
from pipeline.operations.dead_letters import DeadJob, DeadLetterEntry
from pipeline.runtime.bootstrap import Runtime

app = typer.Typer(help="Dead letters, and jobs that wait for a person's decision.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="The id that `mailfold dead list` shows.", metavar="ID")]


@app.command("list")
def list_dead(
    limit: Annotated[int, typer.Option(help="The most to show of each kind, newest first.", min=1)] = 100,
) -> None:
    """Show dead and unknown jobs of both queues, and the topic `dead-letters`."""

    async def read(rt: Runtime) -> tuple[list[DeadJob], list[DeadLetterEntry]]:
        return await dead_letters.dead_jobs(rt, limit), await dead_letters.recent_letters(rt, limit)

    jobs, entries = run_with_runtime(read)
    listing = table("id", "lane or source", "state or reason", "attempts", "error")
    for job in jobs:
        listing.add_row(job.id, job.lane, job.state, str(job.attempts), job.error)
    for entry in entries:
        listing.add_row(entry.id, str(entry.letter.source), entry.letter.reason, "", entry.letter.error)
    console().print(listing if listing.row_count else "no dead jobs, no dead letters", markup=False)


@app.command("show")
def show(
    entry_id: IdArgument,
    value: Annotated[bool, typer.Option("--value", help="Also the record's bytes: personal data.")] = False,
) -> None:
    """Show one dead job or dead letter in full."""
    entry = run_with_runtime(lambda rt: dead_letters.find_entry(rt, entry_id))
    for name, text in _job_lines(entry) if isinstance(entry, DeadJob) else _letter_lines(entry, value=value):
        console().print(f"{name:12} {text}", markup=False)


@app.command("replay")
def replay(
    entry_id: Annotated[str, typer.Argument(help="The id that `mailfold dead list` shows.", metavar="[ID]")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every dead and unknown job.")] = False,
    reason: ReasonOption = "",
) -> None:
    """Replay: a job is pending again, with a new schedule; a dead letter's record is appended to its topic again."""
    if bool(entry_id) == everything:
        raise Refused("give an ID that `mailfold dead list` shows, or --all")

    async def replay_recorded(rt: Runtime, actions: ActionRecorder) -> list[str]:
        if everything:
            async with actions.recorded(OperatorChange("dead.replay", "--all", reason=reason)):
                return await dead_letters.replay(rt, None)
        entry = await dead_letters.find_entry(rt, entry_id)
        async with actions.recorded(dead_letters.replay_change(entry, reason)):
            return await dead_letters.replay(rt, entry_id)

    for replayed_id in run_change(replay_recorded):
        console().print(f"replayed {replayed_id}", markup=False)


def _job_lines(job: DeadJob) -> list[tuple[str, str]]:
    return [
        ("id", job.id),
        ("lane", job.lane),
        ("state", job.state),
        ("attempts", str(job.attempts)),
        ("ended", str(job.finished_at or "")),
        ("error", job.error),
        ("more", f"mailfold trace {job.email_id}"),
    ]


def _letter_lines(entry: DeadLetterEntry, *, value: bool) -> list[tuple[str, str]]:
    letter = entry.letter
    lines = [
        ("id", entry.id),
        ("source", str(letter.source)),
        ("role", letter.role),
        ("reason", letter.reason),
        ("error", letter.error),
        ("key", (letter.key or b"").decode("utf-8", "backslashreplace")),
        ("bytes", f"{len(letter.value or b'')}{f' ({letter.cut} more at the source)' if letter.cut else ''}"),
    ]
    return lines + ([("value", (letter.value or b"").decode("utf-8", "backslashreplace"))] if value else [])
