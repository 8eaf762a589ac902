"""The inbox's pages for browsers; called by :mod:`pipeline.devstack.sandbox.api`. Pure.

Senders write most of what is shown. Each value passes :func:`fill`, which escapes it, but for the HTML of
a message: that is a document of its own in a frame that neither loads nor runs anything.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Final

from markupsafe import Markup

from pipeline.devstack.sandbox import page_templates as templates
from pipeline.devstack.sandbox.mailbox import SandboxMessage, decoded_text
from pipeline.runtime.web import mail_frame
from pipeline.runtime.web.markup import fill, fill_each, printable
from pipeline.runtime.web.style import STYLE, STYLE_CSP_SOURCE

MAX_TEXT_CHARS: Final = 200_000
"""Characters shown of one text part or of the source; the raw message has the rest."""
MAX_VALUE_CHARS: Final = 2_000
"""Characters shown of one header."""
MAX_HEADERS: Final = 300
MAX_PARTS: Final = 30
MAX_RECIPIENTS: Final = 20
MAX_EVENTS: Final = 300

PAGE_CSP: Final = (
    f"default-src 'none'; style-src {STYLE_CSP_SOURCE}; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATES: Final[Mapping[str, tuple[str, str]]] = {
    "spamreport": ("spam report", "bad"),
    "unsubscribe": ("unsubscribed", "warn"),
    "bounce": ("bounced", "bad"),
    "dropped": ("dropped", "bad"),
    "click": ("clicked", "good"),
    "open": ("opened", "good"),
    "delivered": ("delivered", "good"),
    "deferred": ("deferred", "warn"),
}
"""A message's state and its colour by event, the event that decides first."""


@dataclass(frozen=True)
class InboxHints:
    """Where to send a first message, for the page of an empty inbox."""

    smtp: str
    """Host and port."""
    gateway: str
    """Base URL."""


@dataclass(frozen=True)
class InboxView:
    """The part of the mailbox that one page lists."""

    messages: Sequence[SandboxMessage]
    kept_count: int
    """Messages on all pages."""
    is_newest: bool
    has_older: bool


def inbox(view: InboxView, hints: InboxHints) -> str:
    """Return the page that lists messages."""
    if view.messages:
        listing = fill(templates.ROWS, rows=fill_each(templates.ROW, map(_summary, view.messages)))
    elif view.is_newest:
        listing = fill(templates.EMPTY, gateway=hints.gateway, smtp=hints.smtp)
    else:
        listing = fill(templates.NO_OLDER)
    pager = [] if view.is_newest else [("/", "Newest messages")]
    if view.has_older:
        pager.append((f"/?before={view.messages[-1].number}", "Older messages"))
    count = f"{view.kept_count} message" if view.kept_count == 1 else f"{view.kept_count} messages"
    summary = f"{count}, newest first. Times are UTC." if view.kept_count else "Empty."
    body = fill(templates.INBOX, summary=summary, listing=listing, pager=_links(pager))
    return _page("Inbox", [("/", "Reload"), ("/messages", "JSON")], body)


def message(shown: SandboxMessage, host: str, neighbours: Sequence[tuple[str, str]]) -> str:
    """Return the page of one message.

    ``host`` is the name and port that the browser used; ``neighbours`` are links (URL and text) to other messages.
    """
    sections = [{"id": id_, "title": title, "body": body} for id_, title, body in _sections(shown, host)]
    body = fill(
        templates.MESSAGE,
        **_summary(shown),
        header_to=_shortened(shown.header("To")) or "(none)",
        size=f"{len(shown.raw):,}",
        tls="with TLS" if shown.tls else "without TLS",
        contents=_links([(f"#{section['id']}", str(section["title"])) for section in sections]),
        sections=fill_each(templates.SECTION, sections),
        pager=_links([("/", "Inbox"), *neighbours]),
    )
    links = [(f"/messages/{shown.number}", "JSON"), (f"/messages/{shown.number}/raw", "Raw message")]
    return _page(_subject(shown), links, body)


def mail_document(shown: SandboxMessage) -> str:
    """Return the HTML that the sender wrote, to be served with :data:`mail_frame.MAIL_CSP`."""
    return mail_frame.mail_document(shown.html())


def state(shown: SandboxMessage) -> tuple[str, str]:
    """Return the state that the message's history makes, in words, and its colour."""
    events = {entry.event for entry in shown.history}
    return next((label for event, label in STATES.items() if event in events), ("accepted", ""))


def _summary(shown: SandboxMessage) -> dict[str, Any]:
    label, colour = state(shown)
    more = len(shown.recipients) - MAX_RECIPIENTS
    brand, address = shown.sender()
    recipients = ", ".join(shown.recipients[:MAX_RECIPIENTS]) + (f" and {more} more" if more > 0 else "")
    return {
        "number": shown.number,
        "subject": _subject(shown),
        "brand": _shortened(brand) or "(no sender)",
        "address": _shortened(address),
        "header_from": _shortened(shown.header("From")) or "(none)",
        "sender": shown.mail_from or "<>",
        "recipients": recipients,
        "badge": fill(templates.BADGE, state=label, colour=colour),
        **_time(shown.received_at),
    }


def _sections(shown: SandboxMessage, host: str) -> Iterator[tuple[str, str, Markup]]:
    yield "events", "Events", _events(shown, host)
    parts = shown.parts(limit=MAX_PARTS)
    texts = [part for part in parts if part.get_content_maintype() == "text" and not part.is_attachment()]
    for number, part in enumerate(texts):
        kind = part.get_content_type()
        text = _preformatted(shown, _text(part))
        if kind == "text/html":
            yield f"part-{number}", "HTML", fill(templates.HTML, number=shown.number, source=text)
        else:
            yield f"part-{number}", "Text" if kind == "text/plain" else printable(kind), text
    if attachments := [part for part in parts if part not in texts]:
        items = fill_each(templates.ATTACHMENT, map(_attachment, attachments))
        yield "attachments", "Attachments", fill(templates.ATTACHMENTS, items=items)
    yield "headers", "Headers", _headers(shown)
    # A character is at most four bytes; no more of a large message is decoded than is shown.
    source = shown.raw[: 4 * MAX_TEXT_CHARS].decode("utf-8", "replace")
    yield "source", "Source", _preformatted(shown, source, len(shown.raw))


def _events(shown: SandboxMessage, host: str) -> Markup:
    newest = shown.history[-MAX_EVENTS:]
    hidden = len(shown.history) - len(newest)
    note = "No event so far." if not newest else f"{hidden} earlier events are in the JSON." if hidden else ""
    entries = fill_each(templates.EVENT, ({"text": entry.text, **_time(entry.at)} for entry in newest))
    return fill(templates.EVENTS, entries=entries, note=_note(note), number=shown.number, host=host)


def _headers(shown: SandboxMessage) -> Markup:
    headers = shown.headers()
    rows = ({"name": name, "value": _shortened(value)} for name, value in headers[:MAX_HEADERS])
    hidden = len(headers) - MAX_HEADERS
    note = _note(f"{hidden} more headers are in the source." if hidden > 0 else "" if headers else "None.")
    return fill(templates.HEADERS, rows=fill_each(templates.HEADER, rows), note=note)


def _attachment(part: EmailMessage) -> dict[str, Any]:
    content = part.get_payload(decode=True)
    name = _shortened(part.get_filename() or "(no name)")
    return {"name": name, "kind": part.get_content_type(), "size": len(content) if isinstance(content, bytes) else 0}


def _text(part: EmailMessage) -> str:
    text = decoded_text(part)
    return "(The character set of this part is unknown.)" if text is None else text


def _preformatted(shown: SandboxMessage, text: str, full_length: int | None = None) -> Markup:
    hidden = (len(text) if full_length is None else full_length) - MAX_TEXT_CHARS
    cut = fill(templates.CUT, count=f"{hidden:,}", number=shown.number) if hidden > 0 else Markup("")
    return fill(templates.TEXT, text=text[:MAX_TEXT_CHARS], note=cut)


def _page(title: str, links: Sequence[tuple[str, str]], body: Markup) -> str:
    return fill(templates.PAGE, title=title, links=_links(links), body=body, style=Markup(STYLE))  # noqa: S704 - our own file


def _links(links: Sequence[tuple[str, str]]) -> Markup:
    return fill_each(templates.LINK, ({"href": href, "text": text} for href, text in links))


def _note(text: str) -> Markup:
    return fill(templates.NOTE, text=text) if text else Markup("")


def _subject(shown: SandboxMessage) -> str:
    return _shortened(shown.subject()).strip() or "(no subject)"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


def _time(millis: int) -> dict[str, str]:
    moment = datetime.datetime.fromtimestamp(millis / 1000, datetime.UTC)
    return {"time": moment.strftime("%Y-%m-%d %H:%M:%S"), "iso_time": moment.isoformat(timespec="milliseconds")}
