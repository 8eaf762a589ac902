"""`mailfold recover`: say what the log or Postgres lost, and bring both together again."""

from typing import Annotated

import typer

from pipeline.admin.actions import ActionRecorder, OperatorChange
from pipeline.cli import context
from pipeline.errors import Refused
from pipeline.operations.recover.run import PLAN, Diagnosis, Recovery, diagnose
from pipeline.operations.recover.run import recover as run_recovery
from pipeline.runtime.bootstrap import Runtime

app = typer.Typer()
MAX_SHOWN_LOSSES = 10


@app.command()
def recover(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it, only say what was lost and what would be done.")
    ] = False,
    reason: context.ReasonOption = "",
) -> None:
    """Bring the log and Postgres together again, after Kafka was restored to an older moment, copied or made anew.

    Nothing is deleted: what only one of the two knows, the other gets. The roles may run meanwhile. Exit 1 where there
    is something to recover and --yes is missing.
    """
    diagnosis = context.run_with_runtime(diagnose)
    _print_diagnosis(diagnosis)
    if not diagnosis.has_work:
        return
    if not yes:
        raise Refused("nothing was changed; repeat it with --yes")
    losses = [str(loss) for loss in diagnosis.losses[:MAX_SHOWN_LOSSES]]

    async def recover_recorded(rt: Runtime, actions: ActionRecorder) -> Recovery:
        before = {"case": diagnosis.case.value, "losses": losses}
        async with actions.recorded(OperatorChange("recover", "log and Postgres", reason=reason, before=before)):
            return await run_recovery(rt)

    _print_recovery(context.run_change(recover_recorded))


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    typer.echo(diagnosis.case.value)
    for loss in diagnosis.losses[:MAX_SHOWN_LOSSES]:
        typer.echo(f"  {loss}")
    if len(diagnosis.losses) > MAX_SHOWN_LOSSES:
        typer.echo(f"  and {len(diagnosis.losses) - MAX_SHOWN_LOSSES} partitions more")
    if diagnosis.has_work:
        typer.echo("\n".join(PLAN))


def _print_recovery(recovery: Recovery) -> None:
    done = recovery.put_back
    typer.echo(
        f"put back on the log: {done.facts} facts about emails, {done.requests} requests, {done.decisions} decisions "
        f"about addresses, {done.templates} templates"
    )
    typer.echo(
        f"{recovery.moved} partitions are read again. Next: wait until `mailfold status` shows nobody behind, then "
        "`mailfold doctor`"
    )
