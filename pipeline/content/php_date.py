"""Format times by PHP's date formats, with English names as in PHP. Pure; Twig's filter `date` calls it.

https://www.php.net/manual/en/datetime.format.php
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipeline.errors import Refused

DEFAULT_FORMAT: Final = "F j, Y H:i"
"""Twig's default format."""
FORMAT_MAX_CHARS: Final = 200

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_SUFFIXES: Final = {1: "st", 21: "st", 31: "st", 2: "nd", 22: "nd", 3: "rd", 23: "rd"}
_MAX_TIMESTAMP_S: Final = 253_402_300_799
"""The last second of the year 9999, the last year that Python's datetime can represent."""


def _is_leap_year(at: datetime) -> bool:
    return at.year % 4 == 0 and (at.year % 100 != 0 or at.year % 400 == 0)


def _days_in_month(at: datetime) -> int:
    if at.month == 12:
        return 31
    return (at.replace(month=at.month + 1, day=1) - at.replace(day=1)).days


def _utc_offset(at: datetime, separator: str) -> str:
    minutes = int((at.utcoffset() or timedelta()).total_seconds()) // 60
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{separator}{abs(minutes) % 60:02}"


def _swatch_beat(at: datetime) -> int:
    """Return the Swatch Internet Time, 0 to 999."""
    biel_time = at.astimezone(UTC) + timedelta(hours=1)
    return int((biel_time.hour * 3600 + biel_time.minute * 60 + biel_time.second) / 86.4) % 1000


_FORMAT_LETTERS: Final[dict[str, Callable[[datetime], Any]]] = {
    "d": lambda at: f"{at.day:02}",
    "D": lambda at: _DAYS[at.weekday()][:3],
    "j": lambda at: at.day,
    "l": lambda at: _DAYS[at.weekday()],
    "N": lambda at: at.isoweekday(),
    "S": lambda at: _SUFFIXES.get(at.day, "th"),
    "w": lambda at: at.isoweekday() % 7,
    "z": lambda at: at.timetuple().tm_yday - 1,
    "W": lambda at: f"{at.isocalendar().week:02}",
    "F": lambda at: _MONTHS[at.month - 1],
    "m": lambda at: f"{at.month:02}",
    "M": lambda at: _MONTHS[at.month - 1][:3],
    "n": lambda at: at.month,
    "t": _days_in_month,
    "L": lambda at: int(_is_leap_year(at)),
    "o": lambda at: at.isocalendar().year,
    "Y": lambda at: f"{at.year:04}",
    "y": lambda at: f"{at.year % 100:02}",
    "a": lambda at: "am" if at.hour < 12 else "pm",
    "A": lambda at: "AM" if at.hour < 12 else "PM",
    "B": lambda at: f"{_swatch_beat(at):03}",
    "g": lambda at: at.hour % 12 or 12,
    "G": lambda at: at.hour,
    "h": lambda at: f"{at.hour % 12 or 12:02}",
    "H": lambda at: f"{at.hour:02}",
    "i": lambda at: f"{at.minute:02}",
    "s": lambda at: f"{at.second:02}",
    "u": lambda at: f"{at.microsecond:06}",
    "v": lambda at: f"{at.microsecond // 1000:03}",
    "e": lambda at: str(at.tzinfo),
    "I": lambda at: int(bool(at.dst())),
    "O": lambda at: _utc_offset(at, ""),
    "P": lambda at: _utc_offset(at, ":"),
    "p": lambda at: _utc_offset(at, ":") if at.utcoffset() else "Z",
    "T": lambda at: at.tzname() or "",
    "Z": lambda at: int((at.utcoffset() or timedelta()).total_seconds()),
    "U": lambda at: int(at.timestamp()),
    "c": lambda at: format_php(at, r"Y-m-d\TH:i:sP"),
    "r": lambda at: format_php(at, "D, d M Y H:i:s O"),
}
_TOKEN: Final = re.compile(r"\\(.)|\\|(.)", re.DOTALL)


def format_php(at: datetime, form: str) -> str:
    """Return the time in this format; unknown letters, and those after a backslash, stand for themselves."""

    def formatted(token: "re.Match[str]") -> str:
        if token[2] is None:
            return token[1] or ""
        letter = _FORMAT_LETTERS.get(token[2])
        return token[2] if letter is None else str(letter(at))

    return _TOKEN.sub(formatted, form)


def parse_datetime(value: Any, now: int, zone: str = "UTC") -> datetime:
    """Return the time that a value names, in the zone. Raise Refused.

    ``value``: seconds since 1970, an ISO date, or "now"; ``now``: milliseconds.
    """
    try:
        return _parse_time(value, now).astimezone(_parse_zone(zone))
    except (OverflowError, OSError) as error:
        raise Refused(f"not a date: {str(value)[:40]!r}") from error


def _parse_time(value: Any, now: int) -> datetime:
    if value == "now":
        return datetime.fromtimestamp(now / 1000, UTC)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value):
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_TIMESTAMP_S:
        return datetime.fromtimestamp(value, UTC)
    try:
        parsed = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Refused(f"not a date: {str(value)[:40]!r}") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _parse_zone(name: str) -> Any:
    if name.upper() in ("UTC", "Z", "GMT"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise Refused(f"not a time zone: {name[:40]!r}") from None
