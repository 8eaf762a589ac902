"""The page of dead letters, and of jobs that wait for a person's decision: list, inspect and replay them."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import KeyScope
from pipeline.errors import MailfoldError, NotFound, Refused
from pipeline.gateway.console.forms import read_form
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.operations import dead_letters
from pipeline.operations.dead_letters import DeadJob, DeadLetterEntry
from pipeline.webhooks.redaction import redact_all
from projections.pending_conversions import lane_of

PATH: Final = "/console/dead-letters"
MAX_SHOWN: Final = 200
"""Jobs, and records of the topic, that the page lists, the newest first."""
MAX_SELECTED: Final = 200
"""Entries that one form replays; more are replayed by `mailfold dead replay --all`."""
VALUE_MAX_CHARS: Final = 50_000


@dataclass(frozen=True)
class ReplayResult:
    """The result for one entry that was to be replayed."""

    id: str
    is_replayed: bool
    text: str


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the routes of dead letters."""
    _add_reading_routes(routes, services)
    _add_replay_route(routes, services)


def _add_reading_routes(routes: APIRouter, services: ConsoleServices) -> None:
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type
    rt, pages, reader = services.state.runtime, services.pages, services.reader

    @routes.get(PATH)
    async def list_dead_letters(request: Request, viewer: Caller) -> Response:
        """List dead and unknown jobs, and the topic `dead-letters` for those who may see it."""
        queue, lane = request.query_params.get("queue", ""), request.query_params.get("lane", "")
        everything = await reader.sees_installation(viewer)
        jobs = await dead_letters.dead_jobs(rt, MAX_SHOWN, None if everything else viewer.tenant)
        entries = await reader.dead_letters(MAX_SHOWN) if everything and not queue and not lane else []
        shown = [job for job in jobs if queue in ("", job.queue) and lane in ("", job.lane)]
        return pages.page(
            "dead_letters.html",
            viewer,
            path=PATH,
            jobs=shown,
            entries=entries or [],
            is_log_away=entries is None,
            everything=everything,
            queue=queue,
            lane=lane,
            lanes=sorted({job.lane for job in jobs}),
            limit=MAX_SHOWN,
            redact=_redactor(viewer),
        )

    @routes.get("/console/dead-letters/show")
    async def show_dead_letter(request: Request, viewer: Caller) -> Response:
        """Show one job or record in full."""
        entry = await _entry(services, viewer, request.query_params.get("id", ""))
        return pages.page(
            "dead_letter.html",
            viewer,
            path=PATH,
            entry=entry,
            is_job=isinstance(entry, DeadJob),
            value=_value(entry) if viewer.can(KeyScope.HISTORY_ADDRESSES) else "",
            redact=_redactor(viewer),
        )


def _add_replay_route(routes: APIRouter, services: ConsoleServices) -> None:
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type

    @routes.post("/console/dead-letters/replay")
    async def replay(request: Request, viewer: Caller) -> Response:
        """Replay the selected entries, one after the other, and say what became of each."""
        form = await read_form(request)
        ids = list(dict.fromkeys(form.all("id")))
        reason = form.reason()
        if not ids or len(ids) > MAX_SELECTED:
            raise Refused(f"select at least one entry, and at most {MAX_SELECTED}")
        results = [await _replay(services, viewer, entry_id, reason) for entry_id in ids]
        return services.pages.page("replayed.html", viewer, path=PATH, results=results, reason=reason)


async def _entry(services: ConsoleServices, viewer: Viewer, entry_id: str) -> DeadJob | DeadLetterEntry:
    """Return the job or record with this id, if the viewer may see it. Raise NotFound."""
    entry = await dead_letters.find_entry(services.state.runtime, entry_id)
    if await services.reader.sees_installation(viewer):
        return entry
    if isinstance(entry, DeadJob) and entry.lane.startswith(lane_of(viewer.tenant, "")):
        return entry
    raise NotFound(f"There is no dead letter {entry_id}.")


async def _replay(services: ConsoleServices, viewer: Viewer, entry_id: str, reason: str) -> ReplayResult:
    try:
        entry = await _entry(services, viewer, entry_id)
        async with services.actions_of(viewer).recorded(dead_letters.replay_change(entry, reason)):
            replayed = await dead_letters.replay(services.state.runtime, entry_id)
    except MailfoldError as error:
        return ReplayResult(entry_id, is_replayed=False, text=str(error))
    others = [other for other in replayed if other != entry_id]
    return ReplayResult(entry_id, is_replayed=True, text=f"as {others[0]}" if others else "")


def _value(entry: DeadLetterEntry | DeadJob) -> str:
    """Return the bytes of a record, as text; empty for a job."""
    if isinstance(entry, DeadJob):
        return ""
    return (entry.letter.value or b"")[:VALUE_MAX_CHARS].decode("utf-8", "backslashreplace")


def _redactor(viewer: Viewer) -> object:
    """Return what takes addresses out of a text, for viewers who may not see them."""
    return redact_all if viewer.masks_addresses else str
