"""Traces, lags and comparisons in, what a person reads on a terminal out."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.operations.pending import format_datetime, format_duration, format_time
from pipeline.operations.rebuild import RebuildResult
from pipeline.operations.status import StatusSnapshot
from pipeline.operations.trace import Trace, TraceResult

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


def print_traces(console: Console, found: TraceResult) -> None:
    """All that were found, newest first."""
    if len(found.traces) > 1 or found.more:
        count = f"the newest {len(found.traces)} of more" if found.more else str(len(found.traces))
        console.print(f"[bold]{count} emails go by this name, newest first[/]\n")
    for each in found.traces:
        print_trace(console, each)
    for waits in found.parked:
        what = (
            f"{waits.kind} at {format_time(waits.occurred_at)}, by {waits.provider} about {waits.provider_message_id}"
        )
        console.print(f"[yellow]parked[/] {escape(what)} ({waits.place}): no ack says whose it is", highlight=False)


def print_trace(console: Console, trace: Trace) -> None:
    """One email: where it stands, then how it came there."""
    colour = _COLOURS.get(trace.status, "default")
    console.print(f"[bold]email {trace.email_id}[/] is [bold {colour}]{trace.status}[/]", highlight=False)
    about = f"tenant {trace.tenant or '?'} · brand {trace.brand or '?'} · {trace.recipient or 'recipient unknown'}"
    known = f" · activity {trace.identity}" if trace.identity else ""
    console.print(escape(about + known), highlight=False)
    if not trace.projected:
        console.print("[yellow]accepted but not yet projected: this is what the log's end says[/]")
    for line in trace.waits_for or ["nothing: all that is owed is settled"]:
        console.print(f"[bold]waits for[/] {escape(line)}", highlight=False)
    for count in trace.counts:
        why = ", ".join(f"{number} {reason}" for reason, number in count.machines.items())
        by = f"{count.human} by humans" + (f"; machines: {why}" if why else "")
        console.print(f"[bold]{count.kind}[/] {count.raw} in all, {escape(by)}", highlight=False)
    console.print(_timeline(trace))
    if trace.conversions:
        console.print(_conversions(trace))
    console.print()


def _timeline(trace: Trace) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("when (UTC)", "after", "what", "", "where on the log"):
        table.add_column(name, overflow="fold")
    began = trace.lines[0].at if trace.lines else 0
    for line in trace.lines:
        first, *again = line.places or [""]
        where = first + (f" [dim]and {len(again)} times more: {', '.join(again[:3])}[/]" if again else "")
        what = f"[{_COLOURS.get(line.what, 'default')}]{line.what}[/]"
        after = ("-" if line.at < began else "+") + format_duration(abs(line.at - began))
        late = (
            f"; recorded {format_duration(line.recorded_at - line.at)} later"
            if line.recorded_at - line.at >= 1000
            else ""
        )
        table.add_row(format_time(line.at), after, what, escape(line.details + late), where)
    return table


def _conversions(trace: Trace) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("conversion", "outcome", "attempts", "job", "next due", "last error"):
        table.add_column(name, overflow="fold")
    for each in trace.conversions:
        job = each["job"] or {}
        due = format_datetime(job["due_at"]) if job.get("state") in {"pending", "attempting"} else ""
        waits = job.get("state") == "pending" and job.get("paused_at")
        lane = f" (lane {job['lane']} paused: {job['paused_reason']})" if waits else ""
        row = (each["word"], each["outcome"], each["attempts"], job.get("state", "none") + lane, due)
        table.add_row(*(escape(str(cell)) for cell in (*row, job.get("last_error", ""))))
    return table


def print_snapshot(console: Console, seen: StatusSnapshot) -> None:
    """The whole installation on one screen."""
    table = Table(title="how far behind", title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("role", "topic", "behind", "of", ""):
        table.add_column(name, justify="right" if name in {"behind", "of"} else "left")
    for lag in seen.lags:
        colour = _GOOD if not lag.behind else _NEUTRAL
        table.add_row(lag.role, lag.topic, f"[{colour}]{lag.behind}[/]", str(lag.end), lag.note)
    console.print(table)
    _open_jobs(console, seen)
    for lane in seen.stopped:
        why = f"paused since {format_datetime(lane.paused_at)}: {lane.reason}" if lane.paused_at else "failing"
        until = f", tried again at {format_datetime(lane.open_until)}" if lane.open_until else ""
        console.print(f"[red]lane {escape(lane.lane)} of {lane.queue}[/] {escape(why)}{until}", highlight=False)
    since = f", the oldest since {format_datetime(seen.parked.oldest)}" if seen.parked.oldest else ""
    console.print(f"events parked, that name no email of ours yet: {seen.parked.count}{since}", highlight=False)
    colour = _BAD if seen.dead_letters else _GOOD
    console.print(f"dead letters on the log: [{colour}]{seen.dead_letters}[/]", highlight=False)
    for name in seen.insecure_destinations:
        console.print(f"[red]destination {escape(name)}[/] is plain http: all on the way read its key", highlight=False)


def _open_jobs(console: Console, seen: StatusSnapshot) -> None:
    if seen.jobs:
        table = Table(title="jobs not done", title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("queue", "state", "jobs", "oldest since"):
            table.add_column(name)
        for jobs in seen.jobs:
            table.add_row(jobs.queue, jobs.state, str(jobs.count), format_datetime(jobs.oldest))
        console.print(table)
    owed = seen.oldest_owed
    if owed is None:
        console.print("oldest owed conversion: [green]none[/]", highlight=False)
        return
    error = f"; last: {owed.last_error}" if owed.last_error else ""
    what = f"{owed.word} of {owed.email_id} (lane {owed.lane}), since {format_datetime(owed.since)}{error}"
    console.print(f"oldest owed conversion: {escape(what)}", highlight=False)


def print_rebuild_result(console: Console, outcome: RebuildResult) -> None:
    """What a rebuild found and did."""
    for each in outcome.differences:
        some = f", such as {', '.join(each.examples)}" if each.examples else ""
        counts = f"{each.only_grown} only in what grew, {each.only_rebuilt} only in what was rebuilt{some}"
        console.print(f"[red]{each.table}[/]: {counts}", highlight=False)
    if not outcome.differences:
        console.print(f"[green]equal[/]: {outcome.records} offsets read, every row the same", highlight=False)
    if outcome.swapped:
        console.print(f"swapped in; {outcome.booked} debts that nobody had booked are booked now", highlight=False)
