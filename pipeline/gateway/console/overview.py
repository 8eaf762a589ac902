"""The first page: whether all is well, what is owed, what is stopped, and how far each role has read."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Response

from pipeline.admin import KeyScope
from pipeline.gateway.console.listing import ConsoleListing, EmailLine, read_listing
from pipeline.gateway.console.reading import InstallationStatus
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.operations.dead_letters import QUEUES, dead_jobs
from pipeline.operations.status import StatusSnapshot, StoppedLane
from pipeline.webhooks.redaction import redact_all
from projections.pending_conversions import lane_of

LAG_NOTICED_OFFSETS: Final = 1_000
"""Records that a role may be behind before the page says so; a busy installation is always some behind."""
MAX_NEWEST_EMAILS: Final = 8
MAX_COUNTED_JOBS: Final = 1_000
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
        redact = redact_all if viewer.masks_addresses else str
        problems = []
        if snapshot is not None and seen is not None:
            problems = overview_problems(snapshot, redact)
        elif snapshot is not None:
            stopped = len(await dead_jobs(state.runtime, MAX_COUNTED_JOBS, viewer.tenant))
            problems = tenant_problems(snapshot, viewer.tenant, stopped, redact)
        newest: Sequence[EmailLine] = ()
        if viewer.can(KeyScope.HISTORY_READ):
            newest = (await read_listing(state.history, viewer, ConsoleListing(), MAX_NEWEST_EMAILS)).lines
        return pages.page(
            "overview.html",
            viewer,
            path="/console",
            problem=status.problem,
            problems=problems,
            everything=sees_installation,
            redact=redact,
            figures=overview_figures(seen) if seen else [],
            lags=[] if snapshot is None else snapshot.lags,
            oldest=seen.oldest_owed if seen else None,
            noticed=LAG_NOTICED_OFFSETS,
            newest=newest,
            operates=viewer.can(KeyScope.OPERATE),
            reads_history=viewer.can(KeyScope.HISTORY_READ),
        )


def overview_problems(snapshot: StatusSnapshot, redact: Callable[[str], str] = str) -> list[OverviewProblem]:
    """Return what needs a person in the whole installation; ``redact`` takes addresses out of reasons."""
    problems = [
        OverviewProblem(f"The projection of partition {halted.partition} is halted: {redact(halted.reason)}")
        for halted in snapshot.halted
    ]
    problems += [
        OverviewProblem("The log lacks records that were read from it; `mailfold recover` leads out of it.")
        for _ in snapshot.lost[:1]
    ]
    problems += [OverviewProblem(_lane_text(lane, redact), "/console/lanes") for lane in snapshot.stopped]
    stopped = _count(snapshot, None, STOPPED_STATES)
    return [*problems, *_lag_problems(snapshot), *_stopped_problems(stopped)]


def tenant_problems(
    snapshot: StatusSnapshot, tenant: str, stopped: int, redact: Callable[[str], str] = str
) -> list[OverviewProblem]:
    """Return what needs a person for those who see one tenant alone.

    What stops everybody is said without details. ``stopped`` is the number of the tenant's dead and unknown jobs.
    """
    problems: list[OverviewProblem] = []
    if snapshot.halted:
        problems.append(OverviewProblem("The projection is halted: statuses and lists may be old. Tell the operator."))
    if snapshot.lost:
        problems.append(OverviewProblem("The log lacks records that were read from it. Tell the operator."))
    problems += [
        OverviewProblem(_lane_text(lane, redact), "/console/lanes")
        for lane in snapshot.stopped
        if lane.queue in QUEUES and lane.lane.startswith(lane_of(tenant, ""))
    ]
    return [*problems, *_lag_problems(snapshot), *_stopped_problems(stopped)]


def _lag_problems(snapshot: StatusSnapshot) -> list[OverviewProblem]:
    return [
        OverviewProblem(f"{lag.role} has {lag.behind:,} records of {lag.topic} still to read.")
        for lag in snapshot.lags
        if lag.behind >= LAG_NOTICED_OFFSETS
    ]


def _stopped_problems(stopped: int) -> list[OverviewProblem]:
    if not stopped:
        return []
    text = "1 job waits" if stopped == 1 else f"{stopped:,} jobs wait"
    return [OverviewProblem(f"{text} for a person's decision.", "/console/dead-letters")]


def overview_figures(snapshot: StatusSnapshot) -> list[OverviewFigure]:
    """Return the figures of the whole installation."""
    owed = _count(snapshot, "emit", (*OPEN_STATES, "unknown"))
    since = snapshot.oldest_owed.since if snapshot.oldest_owed else None
    waiting = _count(snapshot, "dispatch", OPEN_STATES)
    stopped = _count(snapshot, None, STOPPED_STATES)
    return [
        OverviewFigure("Conversions owed", owed, "the oldest for" if since else "none waits", since=since),
        OverviewFigure("Emails to send", waiting, "not handed to a provider yet"),
        OverviewFigure("Jobs to decide", stopped, "dead or unknown", "/console/dead-letters", is_bad=stopped > 0),
        OverviewFigure("Dead letters", snapshot.dead_letters, "records on the topic", "/console/dead-letters"),
        OverviewFigure("Events parked", snapshot.parked.count, "wait for the ack of their email"),
    ]


def _count(snapshot: StatusSnapshot, queue: str | None, states: Sequence[str]) -> int:
    return sum(job.count for job in snapshot.jobs if queue in (None, job.queue) and job.state in states)


def _lane_text(lane: StoppedLane, redact: Callable[[str], str]) -> str:
    what = {"dispatch": "Mail of", "emit": "Conversions of", "provider": "Provider"}.get(lane.queue, lane.queue)
    stop = "paused" if lane.paused_at is not None else "it failed too often, and is tried again later"
    return f"{what} {lane.lane}: {stop}" + (f" – {redact(lane.reason)}." if lane.reason else ".")
