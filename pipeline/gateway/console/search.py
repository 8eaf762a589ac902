"""Understand what people type into the console's search box: an id, an address, or filters such as `status:bounced`.

Pure: the time is an argument. The page of emails calls it.
"""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import Refused
from topics.record import Millis

SEARCH_MAX_CHARS: Final = 1000
_WORD: Final = re.compile(r'(?:(?P<name>[a-z_]+):)?(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))')
_PERIOD: Final = re.compile(r"(\d{1,4})(m|h|d|w)")
_PERIOD_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DAY: Final = dt.timedelta(days=1)


@dataclass(frozen=True)
class EmailSearch:
    """A search: one id, one address, or filters, by name; empty for all emails."""

    identifier: str = ""
    address: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)


def parse_search(text: str, filter_names: tuple[str, ...]) -> EmailSearch:
    """Return what a text asks for. Raise Refused for what is not understood."""
    if len(text) > SEARCH_MAX_CHARS:
        raise Refused(f"a search has at most {SEARCH_MAX_CHARS} characters")
    filters: dict[str, str] = {}
    words: list[str] = []
    for match in _WORD.finditer(text.strip()):
        value = match["quoted"] if match["plain"] is None else match["plain"]
        if match["name"] in filter_names:
            filters[match["name"]] = value
        else:
            # An id may have a colon in it.
            words.append(match[0].strip('"'))
    if len(words) > 1:
        raise Refused(f"{' and '.join(words[:2])[:200]} are two things; search for one id or address at a time")
    if not words:
        return EmailSearch(filters=filters)
    _check_word(words[0], filter_names)
    is_address = "@" in words[0].strip("<>")[1:] and not words[0].startswith("<")
    if is_address:
        return EmailSearch(address=words[0], filters=filters)
    if filters:
        raise Refused("an id names one email; leave the filters out")
    return EmailSearch(identifier=words[0])


def _check_word(word: str, filter_names: tuple[str, ...]) -> None:
    """Raise Refused for a filter that is none of ours."""
    name, colon, _ = word.partition(":")
    if colon and re.fullmatch(r"[a-z_]+", name):
        raise Refused(f"there is no filter {name}; there are {', '.join(filter_names)}")


def search_text(filters: Mapping[str, str]) -> str:
    """Return the text that asks for these filters."""
    return " ".join(f'{name}:"{value}"' if " " in value else f"{name}:{value}" for name, value in filters.items())


def parse_moment(text: str, now: Millis) -> Millis:
    """Return the time that a text names. Raise Refused.

    It names a day, a time in UTC or with an offset, `today`, `yesterday`, or how long ago it is, as `90m` or `7d`.
    """
    word = text.strip().lower()
    today = dt.datetime.fromtimestamp(now / 1000, dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if word in ("today", "yesterday"):
        return _millis(today if word == "today" else today - _DAY)
    if (match := _PERIOD.fullmatch(word)) is not None:
        return now - int(match[1]) * _PERIOD_MS[match[2]]
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise Refused(
            f"{text[:40]}: not a time; it may be 2026-11-27, 2026-11-27T13:00, today, yesterday, 90m, 12h or 7d ago"
        ) from None
    return _millis(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))


def _millis(moment: dt.datetime) -> Millis:
    return int(moment.timestamp() * 1000)
