"""`mailfold dead list|show|replay`: what went no further, and how it goes on."""

from typing import Annotated

import typer

from pipeline.cli.context import console, run_with_runtime, table
from pipeline.errors import Refused
from pipeline.operations import dead_letters
from pipeline.operations.dead_letters import DeadJob, DeadLetterEntry
from pipeline.runtime.bootstrap import Runtime

app = typer.Typer(help="What went no further: dead letters, and jobs that a person decides.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="As the list shows it.", metavar="ID")]


@app.command("list")
def list_dead(
    limit: Annotated[int, typer.Option(help="At most so many of each kind, the youngest.", min=1)] = 100,
) -> None:
    """Show dead and unknown jobs of both outboxes, and the topic `dead-letters`."""

    async def look(rt: Runtime) -> tuple[list[DeadJob], list[DeadLetterEntry]]:
        return await dead_letters.dead_jobs(rt, limit), await dead_letters.recent_letters(rt, limit)

    jobs, found = run_with_runtime(look)
    shown = table("id", "lane or source", "what", "attempts", "why")
    for job in jobs:
        shown.add_row(job.id, job.lane, job.state, str(job.attempts), job.error)
    for each in found:
        shown.add_row(each.id, str(each.letter.source), each.letter.reason, "", each.letter.error)
    console().print(shown if shown.row_count else "nothing is dead", markup=False)


@app.command("show")
def show(
    wanted: IdArgument,
    value: Annotated[bool, typer.Option("--value", help="Also the record's own bytes: personal data.")] = False,
) -> None:
    """Show one in full."""
    found = run_with_runtime(lambda rt: dead_letters.find_entry(rt, wanted))
    for name, said in _job_lines(found) if isinstance(found, DeadJob) else _letter_lines(found, value=value):
        console().print(f"{name:12} {said}", markup=False)


@app.command("replay")
def replay(
    wanted: Annotated[str, typer.Argument(help="As the list shows it.", metavar="[ID]")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every dead and unknown job.")] = False,
) -> None:
    """Begin anew: a job is pending again, its schedule from the start; a letter's record is appended again."""
    if bool(wanted) == everything:
        raise Refused("say which one (an ID that `mailfold dead list` shows), or --all")
    for begun in run_with_runtime(lambda rt: dead_letters.replay(rt, wanted or None)):
        console().print(f"replayed {begun}", markup=False)


def _job_lines(job: DeadJob) -> list[tuple[str, str]]:
    return [
        ("id", job.id),
        ("lane", job.lane),
        ("state", job.state),
        ("attempts", str(job.attempts)),
        ("ended", str(job.finished_at or "")),
        ("why", job.error),
        ("more", f"mailfold trace {job.email_id}"),
    ]


def _letter_lines(found: DeadLetterEntry, *, value: bool) -> list[tuple[str, str]]:
    letter = found.letter
    lines = [
        ("id", found.id),
        ("source", str(letter.source)),
        ("role", letter.role),
        ("reason", letter.reason),
        ("error", letter.error),
        ("key", (letter.key or b"").decode("utf-8", "backslashreplace")),
        ("bytes", f"{len(letter.value or b'')}{f' ({letter.cut} more at the source)' if letter.cut else ''}"),
    ]
    return lines + ([("value", (letter.value or b"").decode("utf-8", "backslashreplace"))] if value else [])
