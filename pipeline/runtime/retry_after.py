"""The header `Retry-After` (RFC 9110 §10.2.3) of answers to the emitter and to dispatch. Pure."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from topics.record import Millis

_MAX_DIGITS: Final = 12
"""Digits of a header that are read; a number with hundreds of digits would overflow a float."""


def parse_retry_after(header: str, now: Millis) -> float | None:
    """Return the seconds from ``now`` that a header asks for, as a number or a date; None where it is neither."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:_MAX_DIGITS])
    try:
        at = parsedate_to_datetime(header)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now / 1000
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds)
