"""Build Fast Track's conversion requests and interpret the replies. Pure; called by the emitter."""

import re
from enum import Enum, auto
from typing import Final

import msgspec

from pipeline.dialects.raw_json import member_spans
from pipeline.runtime.retry_after import parse_retry_after
from projections.pending_conversions import PendingConversion
from topics.conversions import ConversionOutcome
from topics.ids import event_id
from topics.record import Millis

MAX_RETRY_AFTER_S: Final = 12 * 60 * 60.0
"""Longest Retry-After that is respected, in seconds; after it the conversion is sent again."""


class ConversionReplyMeaning(Enum):
    """The meaning of a reply for the conversion and the destination."""

    SETTLED = auto()
    """The conversion was accepted."""
    REFUSED = auto()
    """The conversion will never be accepted, so it is not sent again."""
    PAUSE = auto()
    """The destination is wrong or denies us access, so no conversion of this brand can be sent."""
    UNWELL = auto()
    """Retry later; the destination fails, does not answer or asks us to slow down."""
    LATER = auto()
    """Retry later; the destination answers."""


_MEANINGS: Final = {
    410: ConversionReplyMeaning.REFUSED,
    422: ConversionReplyMeaning.REFUSED,
    429: ConversionReplyMeaning.UNWELL,
} | dict.fromkeys((401, 403, 404), ConversionReplyMeaning.PAUSE)
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_RETRY_AFTER_STATUSES: Final = (429, 503)


class _ConversionBody(msgspec.Struct, frozen=True):
    # Fast Track's specification: "It's important that the activity data … is sent back".
    activity: msgspec.Raw
    email_id: str
    delivery_status: str


def url(destination: str) -> str:
    """Return the URL to POST conversions to: `{supplied-url}/email/conversion`."""
    return destination.rstrip("/") + "/email/conversion"


def body(conversion: PendingConversion, *, user_id_integer: bool = False) -> bytes:
    """Return the body of the request.

    The activity is sent back byte for byte as it was received. With ``user_id_integer`` its `user_id` is changed to a
    number (see ``with_integer_user_id``).
    """
    activity = with_integer_user_id(conversion.activity) if user_id_integer else conversion.activity
    return msgspec.json.encode(
        _ConversionBody(activity=activity, email_id=conversion.email_id, delivery_status=conversion.word.value)
    )


def with_integer_user_id(activity: msgspec.Raw) -> msgspec.Raw:
    """Return the activity with `user_id` as a number, if its text is an integer in JSON's form ("7", not "007").

    Every other byte is kept: numbers beyond 64 bits, white space and the order of the fields.
    """
    text = bytes(activity).decode()
    for name, start, end in reversed(list(member_spans(text))):
        digits = text[start + 1 : end - 1]
        if name == "user_id" and text[start] == '"' and _INTEGER.fullmatch(digits):
            text = text[:start] + digits + text[end:]
    return msgspec.Raw(text.encode())


def headers(conversion: PendingConversion, key: str) -> dict[str, str]:
    """Return the headers of the request; the Idempotency-Key is the same at every attempt."""
    return {
        "Content-Type": "application/json",
        "X-API-KEY": key,
        "Idempotency-Key": f"{conversion.email_id}:{conversion.word.value}",
        "User-Agent": "Mailfold",
    }


def reply_meaning(status: int) -> ConversionReplyMeaning:
    """Return the meaning of an HTTP status; 0 stands for no answer."""
    if 200 <= status < 300:
        return ConversionReplyMeaning.SETTLED
    if status == 0 or status >= 500:
        return ConversionReplyMeaning.UNWELL
    return _MEANINGS.get(status, ConversionReplyMeaning.LATER)


def retry_after_seconds(status: int, header: str, now: Millis) -> float | None:
    """Return the seconds to wait that a 429 or 503 asks for; None if it asks for none."""
    seconds = parse_retry_after(header, now) if status in _RETRY_AFTER_STATUSES else None
    return None if seconds is None else min(MAX_RETRY_AFTER_S, seconds)


def result_id(conversion: PendingConversion, attempt: int, outcome: ConversionOutcome) -> str:
    """Return the event id of the outcome of an attempt; it is the same if a crash makes us append it again."""
    return event_id("emit", conversion.email_id, conversion.word.value, str(attempt), outcome.value)
