"""Changes of Extra Horizon's emails in; what they make of its Mails out. Pure.

What is written for one email commutes with what is written for another of the same mail: views add
up, the last update is the latest, and only the first recipient's request tells the rest. So two
partitions that write one mail's row need no order between them.
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
"""What the event id of a call of /open begins with; each call is one view."""

_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_DECODE: Final = msgspec.json.Decoder().decode


class MailUpdate(msgspec.Struct):
    """What a run says of one recipient of a mail."""

    state: EmailState
    is_new: bool
    """Its request came with this run: what was seen of it before counts only now."""


def add_change(
    mails: dict[EmailId, MailUpdate], change: EmailChange, before: EmailState | None, after: EmailState
) -> None:
    """Remember a change, if it is one of a mail's."""
    if after.request is None or after.request.dialect != EXTRAHORIZON_DIALECT:
        return
    known = mails.get(change.email_id)
    newly = before is None or before.request is None if known is None else known.is_new
    mails[change.email_id] = MailUpdate(after, newly)


def rows(mails: Mapping[EmailId, MailUpdate]) -> Iterable[dict[str, Any]]:
    """One per recipient."""
    for email_id, mailed in mails.items():
        request = mailed.state.request
        assert request is not None
        yield {
            "email_id": email_id,
            "mail_id": request.message_id,
            "tenant": request.tenant,
            "updated_at": mail_updated_at(mailed.state),
            "newly": mailed.is_new,
            "mail": mail_document(mailed.state),
        }


def mail_updated_at(state: EmailState) -> Millis:
    """When something last happened to it, repeats included: each view is an update, and so is a correction.

    It never steps back, as the row's doesn't, so what was corrected counts as well.
    """
    marks = (getattr(state, name) for name in MARKS)
    heard = max((max(mark.last, mark.recorded) for mark in marks if mark is not None), default=0)
    return max(heard, corrected_at(state))


def view_events(timeline: Iterable[tuple[EmailId, str]]) -> list[tuple[EmailId, str]]:
    """Those of a run's events that are views."""
    return [(email_id, event_id) for email_id, event_id in timeline if event_id.startswith(VIEW_EVENT_PREFIX)]


def mail_document(state: EmailState) -> str | None:
    """The mail as the first recipient's request tells it; None from another's."""
    request = state.request
    told = None if request is None else _decoded(request.details)
    if request is None or not isinstance(told, dict):
        return None
    content = _decoded(request.variables)
    if content is not None:
        told["content"] = content
    if state.provider_ids:
        told["aws_message_id"] = state.provider_ids[0][1]
    # The standard library's, because it writes integers of any length; Postgres' jsonb has no NUL, as its texts.
    return _NUL.sub(r"\1\\ufffd", json.dumps(told))


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return _DECODE(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
