"""Extra Horizon's Mails, projected from the changes of their emails. Pure; `steps` and the sink use it.

Writes for two emails of the same mail commute: views add up, the last update is the maximum, and everything else comes
from the first recipient's request only. So two partitions may write one mail's row in any order.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from topics.changes import EmailChange
from topics.join import MARKS
from topics.readings import corrected_at
from topics.record import EmailId, Millis
from topics.states import EmailState

EXTRAHORIZON_DIALECT: Final = "extrahorizon"
VIEW_EVENT_PREFIX: Final = "extrahorizon:"
"""Prefix of the event id of a call of /open; each call is one view."""

_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_DECODE: Final = msgspec.json.Decoder().decode


class MailUpdate(msgspec.Struct):
    """One batch's update of a mail from one of its recipients."""

    state: EmailState
    is_new: bool
    """True if the email's request came with this batch: views before the request are counted only now."""


def add_change(
    mails: dict[EmailId, MailUpdate], change: EmailChange, before: EmailState | None, after: EmailState
) -> None:
    """Add a change to the updates if its email belongs to a mail."""
    if after.request is None or after.request.dialect != EXTRAHORIZON_DIALECT:
        return
    update = mails.get(change.email_id)
    is_new = before is None or before.request is None if update is None else update.is_new
    mails[change.email_id] = MailUpdate(after, is_new)


def rows(mails: Mapping[EmailId, MailUpdate]) -> Iterable[dict[str, Any]]:
    """Yield one row per recipient."""
    for email_id, update in mails.items():
        request = update.state.request
        assert request is not None
        yield {
            "email_id": email_id,
            "mail_id": request.message_id,
            "tenant": request.tenant,
            "updated_at": mail_updated_at(update.state),
            "newly": update.is_new,
            "mail": mail_document(update.state),
        }


def mail_updated_at(state: EmailState) -> Millis:
    """Return the time of the email's last event: each view is an update, and so is a correction.

    Corrected events count as well, so that the time never decreases.
    """
    marks = (getattr(state, name) for name in MARKS)
    last_event_at = max((max(mark.last, mark.recorded) for mark in marks if mark is not None), default=0)
    return max(last_event_at, corrected_at(state))


def view_events(timeline: Iterable[tuple[EmailId, str]]) -> list[tuple[EmailId, str]]:
    """Return the events of a batch that are views."""
    return [(email_id, event_id) for email_id, event_id in timeline if event_id.startswith(VIEW_EVENT_PREFIX)]


def mail_document(state: EmailState) -> str | None:
    """Return the mail as JSON from the first recipient's request; None for the other recipients."""
    request = state.request
    document = None if request is None else _decode_json(request.details)
    if request is None or not isinstance(document, dict):
        return None
    content = _decode_json(request.variables)
    if content is not None:
        document["content"] = content
    if state.provider_ids:
        document["aws_message_id"] = state.provider_ids[0][1]
    # The standard library writes integers of any length. Postgres' jsonb can't hold NUL.
    return _NUL.sub(r"\1\\ufffd", json.dumps(document))


def _decode_json(raw: msgspec.Raw) -> Any:
    try:
        return _DECODE(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
