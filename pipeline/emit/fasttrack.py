"""A debt in, Fast Track's conversion request out; its answer in, what it means out. Pure."""

import re
from enum import Enum, auto
from typing import Final

import msgspec

from pipeline.dialects.raw_json import member_spans
from pipeline.runtime.retry_after import parse_retry_after
from projections.debts import PendingConversion
from topics.conversions import ConversionOutcome
from topics.ids import event_id
from topics.record import Millis

MAX_RETRY_AFTER_S: Final = 12 * 60 * 60.0
"""Seconds; a receiver that asks for more is asked again after this."""


class ConversionReplyMeaning(Enum):
    """What an answer means for the debt, the destination and the schedule."""

    SETTLED = auto()
    REFUSED = auto()
    """This conversion will never be taken: settled, too."""
    PAUSE = auto()
    """The destination is wrong or closed to us: no conversion of this brand can be told."""
    UNWELL = auto()
    """Later, and the destination itself seems to be in trouble."""
    LATER = auto()
    """Later; the destination answers."""


_MEANINGS: Final = {
    410: ConversionReplyMeaning.REFUSED,
    422: ConversionReplyMeaning.REFUSED,
    429: ConversionReplyMeaning.UNWELL,
} | dict.fromkeys((401, 403, 404), ConversionReplyMeaning.PAUSE)
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_RETRY_AFTER_STATUSES: Final = (429, 503)


class _ConversionBody(msgspec.Struct, frozen=True):
    # seed 000: "It's important that the activity data … is sent back".
    activity: msgspec.Raw
    email_id: str
    delivery_status: str


def url(destination: str) -> str:
    """`POST {supplied-url}/email/conversion`."""
    return destination.rstrip("/") + "/email/conversion"


def body(debt: PendingConversion, *, user_id_integer: bool = False) -> bytes:
    """The request's body; the activity byte for byte as it came, but for a `user_id` that is wanted as a number."""
    activity = with_integer_user_id(debt.activity) if user_id_integer else debt.activity
    return msgspec.json.encode(
        _ConversionBody(activity=activity, email_id=debt.email_id, delivery_status=debt.word.value)
    )


def with_integer_user_id(activity: msgspec.Raw) -> msgspec.Raw:
    """The activity with `user_id` as the number that it spells; untouched where it spells none, such as "007" or "x".

    Every other byte stays: numbers beyond 64 bits, blanks, the order of the fields.
    """
    text = bytes(activity).decode()
    for name, start, end in reversed(list(member_spans(text))):
        spelled = text[start + 1 : end - 1]
        if name == "user_id" and text[start] == '"' and _INTEGER.fullmatch(spelled):
            text = text[:start] + spelled + text[end:]
    return msgspec.Raw(text.encode())


def headers(debt: PendingConversion, key: str) -> dict[str, str]:
    """The request's headers; the same Idempotency-Key at every attempt."""
    return {
        "Content-Type": "application/json",
        "X-API-KEY": key,
        "Idempotency-Key": f"{debt.email_id}:{debt.word.value}",
        "User-Agent": "Mailfold",
    }


def reply_meaning(status: int) -> ConversionReplyMeaning:
    """What an HTTP status means; 0: nobody answered."""
    if 200 <= status < 300:
        return ConversionReplyMeaning.SETTLED
    if status == 0 or status >= 500:
        return ConversionReplyMeaning.UNWELL
    return _MEANINGS.get(status, ConversionReplyMeaning.LATER)


def retry_after_seconds(status: int, header: str, now: Millis) -> float | None:
    """Return the seconds that a 429 or 503 asks for; None where it asks for none."""
    seconds = parse_retry_after(header, now) if status in _RETRY_AFTER_STATUSES else None
    return None if seconds is None else min(MAX_RETRY_AFTER_S, seconds)


def result_id(debt: PendingConversion, attempt: int, outcome: ConversionOutcome) -> str:
    """The id of an attempt's outcome: the same where a crash makes us append it again."""
    return event_id("emit", debt.email_id, debt.word.value, str(attempt), outcome.value)
