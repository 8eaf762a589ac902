"""Write emails and timelines as CSV and NDJSON. Pure.

A spreadsheet executes a cell that begins like a formula: such cells get an apostrophe before them (OWASP, CSV
Injection). NDJSON has the JSON of `GET /api/v1/emails`.
"""

import csv
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from pipeline.dialects.api_v1 import EmailView, FactView, TimelineEntryView
from pipeline.exports.request import ExportFormat, ExportKind

GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31
"""zlib's code for its largest window in the gzip format; its header has no time and no name."""
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

_PLAIN_COLUMNS: Final = (
    *("email_id", "message_id", "dialect", "brand", "brand_id", "identity", "recipient", "sender", "subject", "kind"),
    *("template", "template_version", "status", "provider", "accepted_at", "sent_at", "updated_at"),
    *("suppressed_reason", "version", "valid_from"),
)
_DETAIL_COLUMNS: Final = ("bounce_class", "type", "subtype", "code", "enhanced", "text")
_COUNTED_FACTS: Final = ("delivered", "opened", "opened_machine", "clicked", "clicked_machine", "unsubscribed")
_ACTIVITY_COLUMNS: Final = ("activity_id", "action_group_id", "action_id", "trigger_hash", "user_id")
EMAIL_COLUMNS: Final = (
    *_PLAIN_COLUMNS,
    *(f"{name}_{part}" for name in _COUNTED_FACTS for part in ("at", "count")),
    *(f"bounce_{name}".replace("bounce_bounce", "bounce") for name in _DETAIL_COLUMNS),
    *("complaint_type", "failure_text"),
    *_ACTIVITY_COLUMNS,
    "activity",
)
TIMELINE_COLUMNS: Final = (
    *("email_id", "nth", "kind", "event_id", "occurred_at", "recorded_at", "duplicates"),
    *("provider", "attempt", "code", "enhanced", "text", "url", "word", "outcome", "machine", "details"),
)
_COLUMNS: Final = {ExportKind.EMAILS: EMAIL_COLUMNS, ExportKind.TIMELINE: TIMELINE_COLUMNS}

EmailEntries = tuple[str, Sequence[TimelineEntryView]]
"""An email's id and its timeline."""


def header(kind: ExportKind, form: ExportFormat) -> str:
    """Return the first line of a file; NDJSON has none."""
    return _csv_text([_COLUMNS[kind]]) if form is ExportFormat.CSV else ""


def email_rows(views: Iterable[EmailView], form: ExportFormat) -> str:
    """Return a line for each email."""
    if form is ExportFormat.NDJSON:
        return "".join(msgspec.json.encode(view).decode() + "\n" for view in views)
    return _csv_text(map(_email_cells, views))


def timeline_rows(timelines: Iterable[EmailEntries], form: ExportFormat) -> str:
    """Return a line for each fact of each email."""
    if form is ExportFormat.NDJSON:
        return "".join(
            msgspec.json.encode({"email_id": email_id, "nth": nth, **_fields_of(entry)}).decode() + "\n"
            for email_id, entries in timelines
            for nth, entry in enumerate(entries, 1)
        )
    return _csv_text(
        _timeline_cells(email_id, nth, entry) for email_id, entries in timelines for nth, entry in enumerate(entries, 1)
    )


def gzip_member(text: str) -> bytes:
    """Return the text as one member of a gzip file; members can be put one after the other (RFC 1952 §2.2)."""
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return compressor.compress(text.encode("utf-8", "replace")) + compressor.flush()


def _email_cells(view: EmailView) -> list[Any]:
    cells = [getattr(view, name) for name in _PLAIN_COLUMNS]
    for name in _COUNTED_FACTS:
        fact: FactView | None = view.facts.get(name)
        cells += [None, 0] if fact is None else [fact.first, fact.count]
    cells += [getattr(view.bounce, name, None) for name in _DETAIL_COLUMNS]
    cells += [getattr(view.complaint, "type", None), getattr(view.failure, "text", None)]
    activity = None if view.activity is None else json.loads(bytes(view.activity))
    own = activity if isinstance(activity, dict) else {}
    cells += [_plain(own.get(name)) for name in _ACTIVITY_COLUMNS]
    return [*cells, None if activity is None else bytes(view.activity).decode()]


def _timeline_cells(email_id: str, nth: int, entry: TimelineEntryView) -> list[Any]:
    details = json.loads(bytes(entry.details))
    cells: list[Any] = [email_id, nth, entry.kind, entry.event_id, entry.occurred_at, entry.recorded_at]
    cells.append(entry.duplicates)
    shown = ("provider", "attempt", "code", "enhanced", "text", "url", "word", "outcome", "machine")
    return [*cells, *(_plain(details.get(name)) for name in shown), bytes(entry.details).decode()]


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | bool) else value


def _fields_of(entry: TimelineEntryView) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _csv_text(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([_safe_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _safe_cell(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula; numbers of ours are never negative."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
