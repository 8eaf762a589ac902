"""Parse the time formats of providers into Unix milliseconds; the provider adapters call it."""

import datetime as dt
import email.utils
import math
from collections.abc import Callable
from typing import Final

from pipeline.errors import Unrecognised
from topics.events import EventKind
from topics.record import Millis

_END_S: Final = 1e11
"""Unix seconds in the year 5138; a greater number is not in seconds."""


def from_seconds(text: str) -> Millis:
    """Parse Unix seconds, whole or with a fraction. Raise Unrecognised."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < _END_S:
        raise Unrecognised("the event's time is not a Unix time in seconds")
    return round(seconds * 1000)


def from_milliseconds(text: str) -> Millis:
    """Parse Unix milliseconds. Raise Unrecognised."""
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 <= milliseconds < _END_S * 1000:
        raise Unrecognised("the event's time is not a Unix time in milliseconds")
    return round(milliseconds)


def from_iso(text: str) -> Millis:
    """Parse ISO 8601 or RFC 3339, as UTC if it has no zone. Raise Unrecognised."""
    try:
        return _millis(dt.datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        raise Unrecognised("the event's time is not an ISO 8601 time") from None


def from_rfc5322(text: str) -> Millis:
    """Parse the date of a mail (RFC 5322 §3.3). Raise Unrecognised."""
    try:
        return _millis(email.utils.parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        raise Unrecognised("the time is not a mail's date") from None


def event_time(read: Callable[[str], Millis], text: str, kind: EventKind, received_at: Millis) -> Millis:
    """Return the event's time as ``read`` parses it; ``received_at`` if that fails for an event of an unknown type.

    Such a type may have its time in another field or format. Raise Unrecognised for all other events.
    """
    try:
        return read(text)
    except Unrecognised:
        if kind is not EventKind.UNKNOWN:
            raise
        return received_at


def _millis(moment: dt.datetime) -> Millis:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    milliseconds = round(aware.timestamp() * 1000)
    if milliseconds < 0:
        raise ValueError(milliseconds)
    return milliseconds
