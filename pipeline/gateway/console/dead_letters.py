"""The page of dead letters, and of jobs that wait for a person's decision: list, inspect and replay them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from aiokafka.errors import KafkaError
from fastapi import APIRouter, Depends, Request, Response

from pipeline.admin import KeyScope
from pipeline.errors import ActionNotRecorded, DatabaseUnavailable, LogUnavailable, MailfoldError, NotFound, Refused
from pipeline.gateway.console.forms import read_form
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.operations import dead_letters
from pipeline.operations.dead_letters import DeadJob, DeadLetterEntry
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.webhooks.redaction import redact_all
from projections.pending_conversions import lane_of
from projections.text import storable_text
from topics.registry import DEAD_LETTERS

PATH: Final = "/console/dead-letters"
MAX_SHOWN: Final = 200
"""Jobs, and records of the topic, that the page lists, the newest first."""
MAX_SELECTED: Final = 200
"""Entries that one form replays; more are replayed by `mailfold dead replay --all`."""
VALUE_MAX_CHARS: Final = 50_000
LETTERS: Final = f"{DEAD_LETTERS.name}/0"
UNAVAILABLE_ERRORS: Final = (
    ActionNotRecorded,
    DatabaseUnavailable,
    LogUnavailable,
    KafkaError,
    *DATABASE_UNAVAILABLE_ERRORS,
)
_STOPPED_TEXT: Final = "Postgres or Kafka did not answer: look whether it still waits, and replay it again if so."
log = get_logger(__name__)


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
        tenant = None if everything else viewer.tenant
        queue, lane = storable_text(queue), storable_text(lane)
        jobs = await dead_letters.dead_jobs(rt, MAX_SHOWN, tenant, queue=queue, lane=lane)
        entries = await reader.dead_letters(MAX_SHOWN) if everything and not queue and not lane else []
        return pages.page(
            "dead_letters.html",
            viewer,
            path=PATH,
            jobs=jobs,
            entries=entries or [],
            is_log_away=entries is None,
            everything=everything,
            queue=queue,
            lane=lane,
            lanes=sorted({job.lane for job in jobs} | ({lane} - {""})),
            limit=MAX_SHOWN,
            redact=_redactor(viewer),
        )

    _add_entry_route(routes, services)


def _add_entry_route(routes: APIRouter, services: ConsoleServices) -> None:
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type
    pages = services.pages

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
        results = await _replay_in_order(services, viewer, sorted(ids, key=_place), reason)
        return services.pages.page("replayed.html", viewer, path=PATH, results=results, reason=reason)


async def _entry(services: ConsoleServices, viewer: Viewer, entry_id: str) -> DeadJob | DeadLetterEntry:
    """Return the job or record with this id, if the viewer may see it. Raise NotFound."""
    everything = await services.reader.sees_installation(viewer)
    if not everything and entry_id.startswith(LETTERS):  # before Kafka is read
        raise NotFound(f"There is no dead letter {entry_id}.")
    entry = await dead_letters.find_entry(services.state.runtime, entry_id)
    if everything:
        return entry
    if isinstance(entry, DeadJob) and entry.lane.startswith(lane_of(viewer.tenant, "")):
        return entry
    raise NotFound(f"There is no dead letter {entry_id}.")


async def _replay_in_order(
    services: ConsoleServices, viewer: Viewer, ids: Sequence[str], reason: str
) -> list[ReplayResult]:
    """Replay entries until one of them can't be, because Postgres or Kafka does not answer; return all results."""
    results: list[ReplayResult] = []
    for number, entry_id in enumerate(ids):
        try:
            results.append(await _replay(services, viewer, entry_id, reason))
        except UNAVAILABLE_ERRORS as error:
            log.warning("replay stopped", error=type(error).__name__)
            results.append(ReplayResult(entry_id, is_replayed=False, text=_STOPPED_TEXT))
            results += [ReplayResult(each, is_replayed=False, text="not tried") for each in ids[number + 1 :]]
            break
    return results


def _place(entry_id: str) -> int:
    """Return the offset of a dead letter, so that records come back in their order; 0 for a job."""
    topic, _, offset = entry_id.rpartition("/")
    return int(offset) if topic == LETTERS and offset.isascii() and offset.isdigit() and len(offset) < 20 else 0


async def _replay(services: ConsoleServices, viewer: Viewer, entry_id: str, reason: str) -> ReplayResult:
    try:
        entry = await _entry(services, viewer, entry_id)
        async with services.actions_of(viewer).recorded(dead_letters.replay_change(entry, reason)):
            replayed = await dead_letters.replay(services.state.runtime, entry_id)
    except UNAVAILABLE_ERRORS:
        raise
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
