"""The first page: whether all is well, what is owed, what is stopped, and how far each role has read."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Response

from pipeline.admin import KeyScope
from pipeline.gateway.console.listing import ConsoleListing, EmailLine, read_listing
from pipeline.gateway.console.reading import InstallationStatus
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.operations.status import StatusSnapshot, StoppedLane
from projections.pending_conversions import lane_of

LAG_NOTICED_OFFSETS: Final = 1_000
"""Records that a role may be behind before the page says so; a busy installation is always some behind."""
MAX_NEWEST_EMAILS: Final = 8
OPEN_STATES: Final = ("held", "pending", "attempting")
STOPPED_STATES: Final = ("dead", "unknown")


@dataclass(frozen=True)
class OverviewProblem:
    """Something that needs a person."""

    text: str
    path: str = ""
    """Where more is said about it; empty for nowhere."""


@dataclass(frozen=True)
class OverviewFigure:
    """One figure of the page."""

    title: str
    value: int
    note: str = ""
    path: str = ""
    is_bad: bool = False
    since: dt.datetime | None = None


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the route of the overview."""
    state, pages, reader = services.state, services.pages, services.reader
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type

    @routes.get("/console")
    async def overview(viewer: Caller) -> Response:
        """Show whether all is well."""
        sees_installation = viewer.can(KeyScope.OPERATE) and await reader.sees_installation(viewer)
        status = await reader.status() if viewer.can(KeyScope.OPERATE) else InstallationStatus(None)
        snapshot = status.snapshot
        seen = snapshot if sees_installation else None
        newest: Sequence[EmailLine] = ()
        if viewer.can(KeyScope.HISTORY_READ):
            newest = (await read_listing(state.history, viewer, ConsoleListing(), MAX_NEWEST_EMAILS)).lines
        return pages.page(
            "overview.html",
            viewer,
            path="/console",
            problem=status.problem,
            problems=overview_problems(snapshot, viewer.tenant, everything=sees_installation) if snapshot else [],
            figures=overview_figures(seen) if seen else [],
            lags=[] if snapshot is None else snapshot.lags,
            oldest=seen.oldest_owed if seen else None,
            noticed=LAG_NOTICED_OFFSETS,
            newest=newest,
            operates=viewer.can(KeyScope.OPERATE),
            reads_history=viewer.can(KeyScope.HISTORY_READ),
        )


def overview_problems(snapshot: StatusSnapshot, tenant: str, *, everything: bool) -> list[OverviewProblem]:
    """Return what needs a person; of lanes, those of one tenant unless ``everything`` may be seen."""
    problems = [
        OverviewProblem(f"The projection of partition {halted.partition} is halted: {halted.reason}")
        for halted in snapshot.halted
        if everything
    ]
    problems += [
        OverviewProblem("The log lacks records that were read from it; `mailfold recover` leads out of it.")
        for _ in snapshot.lost[:1]
        if everything
    ]
    problems += [
        OverviewProblem(_lane_text(lane), "/console/lanes")
        for lane in snapshot.stopped
        if everything or lane.lane.startswith(lane_of(tenant, ""))
    ]
    problems += [
        OverviewProblem(f"{lag.role} has {lag.behind:,} records of {lag.topic} still to read.")
        for lag in snapshot.lags
        if lag.behind >= LAG_NOTICED_OFFSETS
    ]
    if everything and (stopped := _count(snapshot, None, STOPPED_STATES)):
        text = "1 job waits" if stopped == 1 else f"{stopped:,} jobs wait"
        problems.append(OverviewProblem(f"{text} for a person's decision.", "/console/dead-letters"))
    return problems


def overview_figures(snapshot: StatusSnapshot) -> list[OverviewFigure]:
    """Return the figures of the whole installation."""
    owed = _count(snapshot, "emit", (*OPEN_STATES, "unknown"))
    since = snapshot.oldest_owed.since if snapshot.oldest_owed else None
    waiting = _count(snapshot, "dispatch", OPEN_STATES)
    stopped = _count(snapshot, None, STOPPED_STATES)
    return [
        OverviewFigure("Conversions owed", owed, "the oldest for" if since else "none waits", since=since),
        OverviewFigure("Emails to send", waiting, "not handed to a provider yet", "/console/emails"),
        OverviewFigure("Jobs to decide", stopped, "dead or unknown", "/console/dead-letters", is_bad=stopped > 0),
        OverviewFigure("Dead letters", snapshot.dead_letters, "records on the topic", "/console/dead-letters"),
        OverviewFigure("Events parked", snapshot.parked.count, "wait for the ack of their email"),
    ]


def _count(snapshot: StatusSnapshot, queue: str | None, states: Sequence[str]) -> int:
    return sum(job.count for job in snapshot.jobs if queue in (None, job.queue) and job.state in states)


def _lane_text(lane: StoppedLane) -> str:
    what = {"dispatch": "Mail of", "emit": "Conversions of", "provider": "Provider"}.get(lane.queue, lane.queue)
    stop = "paused" if lane.paused_at is not None else "it failed too often, and is tried again later"
    return f"{what} {lane.lane}: {stop}" + (f" – {lane.reason}." if lane.reason else ".")
