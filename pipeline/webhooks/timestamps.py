"""A provider's spelling of a time in, milliseconds UTC out."""

import datetime as dt
import email.utils
import math
from collections.abc import Callable
from typing import Final

from pipeline.errors import Unrecognised
from topics.events import EventKind
from topics.record import Millis

_YEAR_5138: Final = 1e11


def from_seconds(text: str) -> Millis:
    """Unix seconds, whole or with a fraction. Raises Unrecognised."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < _YEAR_5138:
        raise Unrecognised("the event's time is not a Unix time in seconds")
    return round(seconds * 1000)


def from_milliseconds(text: str) -> Millis:
    """Unix milliseconds. Raises Unrecognised."""
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 <= milliseconds < _YEAR_5138 * 1000:
        raise Unrecognised("the event's time is not a Unix time in milliseconds")
    return round(milliseconds)


def from_iso(text: str) -> Millis:
    """ISO 8601 / RFC 3339; UTC where it names no zone. Raises Unrecognised."""
    try:
        found = dt.datetime.fromisoformat(text.strip())
        return _millis(found)
    except (ValueError, OverflowError):
        raise Unrecognised("the event's time is not an ISO 8601 time") from None


def from_rfc5322(text: str) -> Millis:
    """A mail's date (RFC 5322 §3.3). Raises Unrecognised."""
    try:
        return _millis(email.utils.parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        raise Unrecognised("the time is not a mail's date") from None


def event_time(read: Callable[[str], Millis], text: str, kind: EventKind, received_at: Millis) -> Millis:
    """Return the event's time, as ``read`` reads it; when it came, for an event of a type that nobody knows here.

    Such a type may name or spell its time in a way of its own. Raises Unrecognised for all others.
    """
    try:
        return read(text)
    except Unrecognised:
        if kind is not EventKind.UNKNOWN:
            raise
        return received_at


def _millis(found: dt.datetime) -> Millis:
    known = found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)
    milliseconds = round(known.timestamp() * 1000)
    if milliseconds < 0:
        raise ValueError(milliseconds)
    return milliseconds
