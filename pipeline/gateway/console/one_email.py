"""The page of one email: where it stands and why, its timeline, its conversions, and the message as it was accepted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response

from pipeline.admin import KeyScope
from pipeline.dialects.masking import mask_address
from pipeline.errors import NotFound
from pipeline.gateway.console.reading import ConsoleReader
from pipeline.gateway.console.rendering import html_response
from pipeline.gateway.console.services import ConsoleServices
from pipeline.gateway.console.sessions import Viewer
from pipeline.gateway.console.standing import email_standing
from pipeline.gateway.console.timeline import timeline_entries
from pipeline.operations.trace import trace_of
from pipeline.runtime.web.mail_frame import MAIL_CSP, mail_document
from pipeline.webhooks.redaction import redact_all
from projections.columns import is_storable_id
from projections.history_queries import EmailHistory
from topics.contents import MessageContent
from topics.readings import email_status, updated_at
from topics.record import Millis
from topics.requests import SendRequest

AsOf = Annotated[int | None, Query(ge=0, le=10**15)]
"""A moment, in milliseconds since 1970; None for now."""
SECTION: Final = "/console/emails"
TEXT_MAX_CHARS: Final = 200_000
MAX_HEADERS: Final = 200


def add_routes(routes: APIRouter, services: ConsoleServices) -> None:
    """Add the routes of one email and of its message."""
    state, pages, reader = services.state, services.pages, services.reader
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type

    @routes.get("/console/emails/{email_id}")
    async def show_email(email_id: str, viewer: Caller, only: str = "", as_of: AsOf = None) -> Response:
        """Show where an email stands, or stood at a moment, and all that happened to it."""
        history = await _history(reader, viewer, email_id, as_of)
        now = state.runtime.clock() if as_of is None else as_of
        values = _page_values(history, viewer, now, failures_only=only == "failures")
        versions = [
            (row.version, row.valid_from, email_status(row.state).value)
            for row in await reader.email_versions(viewer, email_id)
        ]
        return pages.page("one_email.html", viewer, path=SECTION, as_of=as_of, versions=versions, **values)

    _add_message_routes(routes, services)


def _add_message_routes(routes: APIRouter, services: ConsoleServices) -> None:
    pages, reader = services.pages, services.reader
    Caller = Annotated[Viewer, Depends(services.sessions)]  # noqa: N806 - a type

    @routes.get("/console/emails/{email_id}/message")
    async def show_message(email_id: str, viewer: Caller) -> Response:
        """Show the message of an email as it was accepted: HTML in a frame, text, headers, attachments."""
        history = await _history(reader, viewer, email_id)
        content = await reader.email_content(history)
        assert history.state.request is not None
        return pages.page(
            "message.html",
            viewer,
            path=SECTION,
            email_id=email_id,
            request=history.state.request,
            problem=content if isinstance(content, str) else "",
            content=content if isinstance(content, MessageContent) else None,
            text=content.text[:TEXT_MAX_CHARS] if isinstance(content, MessageContent) else "",
            headers=_headers(history.state.request, content) if isinstance(content, MessageContent) else [],
        )

    @routes.get("/console/emails/{email_id}/html")
    async def show_html(email_id: str, viewer: Caller) -> Response:
        """Return the HTML that the sender wrote, as a document that neither loads nor runs anything."""
        content = await reader.email_content(await _history(reader, viewer, email_id))
        if isinstance(content, str):
            raise NotFound(content)
        return html_response(
            mail_document(content.html), csp=MAIL_CSP, X_Frame_Options="SAMEORIGIN", X_DNS_Prefetch_Control="off"
        )


async def _history(reader: ConsoleReader, viewer: Viewer, email_id: str, as_of: Millis | None = None) -> EmailHistory:
    """Return the history of the email that a URL names. Raise NotFound."""
    if not is_storable_id(email_id):
        raise NotFound("An email's id is a UUID, as 0192f0c1-….")
    return await reader.email_history(viewer, email_id, as_of)


def _page_values(history: EmailHistory, viewer: Viewer, now: int, *, failures_only: bool) -> dict[str, Any]:
    """Return what the page of one email shows."""
    request = history.state.request
    assert request is not None
    trace = trace_of(history, now)
    standing = email_standing(history)
    masks = viewer.masks_addresses
    masked = redact_all if masks else str
    return {
        "history": history,
        "request": request,
        "recipient": mask_address(request.recipient) if masks else request.recipient,
        "recipient_name": "" if masks else request.recipient_name,
        "subject": masked(request.subject),
        "identity": masked(request.identity),
        "provider_ids": [(provider, masked(each)) for provider, each in history.state.provider_ids],
        "sender": masked(str(request.sender.address)) if request.sender else "",
        "standing": replace(standing, sentence=masked(standing.sentence), words=masked(standing.words)),
        "waits_for": [masked(reason) for reason in trace.waits_for],
        "counts": trace.counts,
        "conversions": _conversions(history.state.email_id, trace.conversions, masked),
        "entries": timeline_entries(history.timeline, masks_addresses=masks, failures_only=failures_only),
        "failures_only": failures_only,
        "updated_at": updated_at(history.state),
        "shows_message": viewer.can(KeyScope.HISTORY_ADDRESSES),
        "command": f"mailfold trace {history.state.email_id}",
    }


def _conversions(email_id: str, conversions: Sequence[dict[str, Any]], masked: Any) -> list[dict[str, Any]]:
    """Return the rows of the table of conversions."""
    rows = []
    for conversion in conversions:
        job = conversion["job"]
        outcome = {"delivered": "told", "given_up": "given up"}.get(conversion["outcome"], conversion["outcome"])
        state = job["state"] if job and outcome == "owed" and job["state"] in ("dead", "unknown", "held") else outcome
        rows.append(
            {
                "word": conversion["word"],
                "state": state,
                "attempts": conversion["attempts"],
                "due_at": job["due_at"] if job and job["state"] == "pending" else None,
                "error": masked(job["last_error"]) if job else "",
                "job_id": f"emit/{email_id}/{conversion['word']}" if state in ("dead", "unknown") else "",
            }
        )
    return rows


def _headers(request: SendRequest, content: MessageContent) -> list[tuple[str, str]]:
    """Return the headers that the request and the content name."""
    shown = request.shown
    to = [box.address for box in shown.to] if shown is not None else [request.recipient]
    cc = [] if shown is None else [box.address for box in shown.cc]
    sender = "" if request.sender is None else f"{request.sender.name} <{request.sender.address}>".strip()
    named = (
        ("From", sender or "(the brand's sender)"),
        ("To", ", ".join(to)),
        ("Cc", ", ".join(cc)),
        ("Reply-To", ", ".join(request.reply_to)),
        ("Subject", request.subject),
        *content.headers[:MAX_HEADERS],
    )
    return [(name, value) for name, value in named if value]
