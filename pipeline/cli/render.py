"""Print traces, the status of the installation and the results of rebuilds, for `mailfold trace|status|rebuild`."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.operations.pending import format_datetime, format_duration, format_time
from pipeline.operations.rebuild import RebuildResult
from pipeline.operations.status import StatusSnapshot
from pipeline.operations.trace import Trace, TraceResult
from projections.feature_level import NEWEST_LEVEL
from topics.actions import OperatorAction

_GOOD, _BAD, _NEUTRAL = "green", "red", "yellow"
_COLOURS = {
    "delivered": _GOOD,
    "opened": _GOOD,
    "clicked": _GOOD,
    "bounced": _BAD,
    "rejected": _BAD,
    "complained": _BAD,
    "dropped": _NEUTRAL,
    "deferred": _NEUTRAL,
    "failed": _BAD,
}


def print_traces(console: Console, result: TraceResult) -> None:
    """Print all emails of a trace, newest first, then the parked events."""
    if len(result.traces) > 1 or result.more:
        count = f"the newest {len(result.traces)} of more" if result.more else str(len(result.traces))
        console.print(f"[bold]{count} emails match, newest first[/]\n")
    for trace in result.traces:
        print_trace(console, trace)
    for event in result.parked:
        text = (
            f"{event.kind} at {format_time(event.occurred_at)}, by {event.provider} about {event.provider_message_id}"
        )
        why = f"({event.place}): no ack with this message id yet"
        if event.claimed_email_id:
            why += f", and none that {event.provider} got {event.claimed_email_id}, which it names without our tag"
        console.print(f"[yellow]parked[/] {escape(text)} {why}", highlight=False)


def print_trace(console: Console, trace: Trace) -> None:
    """Print one email: its status and what it waits for, then its timeline and its conversions."""
    colour = _COLOURS.get(trace.status, "default")
    console.print(f"[bold]email {trace.email_id}[/] is [bold {colour}]{trace.status}[/]", highlight=False)
    about = f"tenant {trace.tenant or '?'} · brand {trace.brand or '?'} · {trace.recipient or 'recipient unknown'}"
    activity = f" · activity {trace.identity}" if trace.identity else ""
    console.print(escape(about + activity), highlight=False)
    if not trace.projected:
        console.print("[yellow]accepted but not yet projected: read from the end of the log[/]")
    for line in trace.waits_for or ["nothing: all that is owed is settled"]:
        console.print(f"[bold]waits for[/] {escape(line)}", highlight=False)
    for count in trace.counts:
        machines = ", ".join(f"{number} {reason}" for reason, number in count.machines.items())
        split = f"{count.human} by humans" + (f"; machines: {machines}" if machines else "")
        console.print(f"[bold]{count.kind}[/] {count.raw} in all, {escape(split)}", highlight=False)
    console.print(_timeline(trace))
    if trace.conversions:
        console.print(_conversions(trace))
    for action in trace.actions or ():
        console.print(f"[bold]by an operator[/] {escape(_action_line(action))}", highlight=False)
    if trace.actions is None:
        console.print("[dim]what operators did is not known: operator-actions can't be read[/]")
    console.print()


def _action_line(action: OperatorAction) -> str:
    failure = f", not made: {action.failure}" if action.failure else ""
    reason = f": {action.reason}" if action.reason else ""
    return (
        f"{action.what} at {format_time(action.recorded_at)}, by {action.actor}{failure}{reason} ({action.action_id})"
    )


def _timeline(trace: Trace) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("when (UTC)", "after", "what", "", "where on the log"):
        table.add_column(name, overflow="fold")
    start = trace.lines[0].at if trace.lines else 0
    for line in trace.lines:
        first, *repeats = line.places or [""]
        places = first + (f" [dim]and {len(repeats)} times more: {', '.join(repeats[:3])}[/]" if repeats else "")
        event = f"[{_COLOURS.get(line.what, 'default')}]{line.what}[/]"
        after = ("-" if line.at < start else "+") + format_duration(abs(line.at - start))
        delay = (
            f"; recorded {format_duration(line.recorded_at - line.at)} later"
            if line.recorded_at - line.at >= 1000
            else ""
        )
        table.add_row(format_time(line.at), after, event, escape(line.details + delay), places)
    return table


def _conversions(trace: Trace) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("conversion", "outcome", "attempts", "job", "next due", "last error"):
        table.add_column(name, overflow="fold")
    for conversion in trace.conversions:
        job = conversion["job"] or {}
        due = format_datetime(job["due_at"]) if job.get("state") in {"pending", "attempting"} else ""
        is_paused = job.get("state") == "pending" and job.get("paused_at")
        lane = f" (lane {job['lane']} paused: {job['paused_reason']})" if is_paused else ""
        state = job.get("state", "none") + lane
        row = (conversion["word"], conversion["outcome"], conversion["attempts"], state, due)
        table.add_row(*(escape(str(cell)) for cell in (*row, job.get("last_error", ""))))
    return table


def print_snapshot(console: Console, snapshot: StatusSnapshot) -> None:
    """Print the status of the whole installation on one screen."""
    table = Table(title="lag", title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("role", "topic", "behind", "of", ""):
        table.add_column(name, justify="right" if name in {"behind", "of"} else "left")
    for lag in snapshot.lags:
        colour = _GOOD if not lag.behind else _NEUTRAL
        table.add_row(lag.role, lag.topic, f"[{colour}]{lag.behind}[/]", str(lag.end), lag.note)
    console.print(table)
    for loss in snapshot.lost:
        console.print(f"[red]the log lost something:[/] {escape(str(loss))}; `mailfold recover`", highlight=False)
    for halted in snapshot.halted:
        place = f"projection of email-changes/{halted.partition} halted"
        console.print(f"[red]{place}[/] {escape(halted.reason)}", highlight=False)
    _print_open_jobs(console, snapshot)
    for lane in snapshot.stopped:
        reason = f"paused since {format_datetime(lane.paused_at)}: {lane.reason}" if lane.paused_at else "failing"
        until = f", tried again at {format_datetime(lane.open_until)}" if lane.open_until else ""
        console.print(f"[red]lane {escape(lane.lane)} of {lane.queue}[/] {escape(reason)}{until}", highlight=False)
    since = f", the oldest since {format_datetime(snapshot.parked.oldest)}" if snapshot.parked.oldest else ""
    console.print(f"events parked, of no known email yet: {snapshot.parked.count}{since}", highlight=False)
    colour = _BAD if snapshot.dead_letters else _GOOD
    console.print(f"dead letters on the log: [{colour}]{snapshot.dead_letters}[/]", highlight=False)
    for tenant in snapshot.suspended_tenants:
        console.print(f"[red]tenant {escape(tenant)}[/] is suspended: its mail waits", highlight=False)
    for name in snapshot.insecure_destinations:
        warning = "is plain http: the network can read its key"
        console.print(f"[red]destination {escape(name)}[/] {warning}", highlight=False)
    todo = "; `mailfold upgrade finish` raises it to {}" if snapshot.feature_level < NEWEST_LEVEL else ""
    console.print(f"feature level: {snapshot.feature_level}{todo.format(NEWEST_LEVEL)}", highlight=False)


def _print_open_jobs(console: Console, snapshot: StatusSnapshot) -> None:
    if snapshot.jobs:
        table = Table(title="jobs not done", title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("queue", "state", "jobs", "oldest since"):
            table.add_column(name)
        for jobs in snapshot.jobs:
            table.add_row(jobs.queue, jobs.state, str(jobs.count), format_datetime(jobs.oldest))
        console.print(table)
    owed = snapshot.oldest_owed
    if owed is None:
        console.print("oldest owed conversion: [green]none[/]", highlight=False)
        return
    error = f"; last: {owed.last_error}" if owed.last_error else ""
    conversion = f"{owed.word} of {owed.email_id} (lane {owed.lane}), since {format_datetime(owed.since)}{error}"
    console.print(f"oldest owed conversion: {escape(conversion)}", highlight=False)


def print_rebuild_result(console: Console, result: RebuildResult) -> None:
    """Print the differences that a rebuild found, and whether its tables were swapped in."""
    for difference in result.differences:
        examples = f", such as {', '.join(difference.examples)}" if difference.examples else ""
        counts = f"{difference.only_grown} only in the live table, {difference.only_rebuilt} only in the rebuilt one"
        console.print(f"[red]{difference.table}[/]: {counts}{examples}", highlight=False)
    if not result.differences:
        console.print(f"[green]equal[/]: {result.records} offsets read, every row the same", highlight=False)
    if result.swapped:
        console.print(f"swapped in; {result.booked} owed conversions added that had no job", highlight=False)
