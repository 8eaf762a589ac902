"""HTML templates that escape every value; used by pages that show text which strangers wrote."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from string import Formatter
from typing import Any, Final

_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tab and line feed, and halves of surrogate pairs, which UTF-8 can't encode."""


class SafeHtml(str):
    """Markup of our own, which :func:`fill` leaves as it is."""

    __slots__ = ()


class _EscapingFormatter(Formatter):
    """A formatter like ``str.format`` that escapes every field but :class:`SafeHtml`."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return the field's text, escaped; every field of a template passes here."""
        return value if isinstance(value, SafeHtml) else escape(printable(format(value, format_spec)))


_FORMATTER: Final = _EscapingFormatter()


def fill(template: str, **values: Any) -> SafeHtml:
    """Return the template with its ``{fields}`` replaced by the escaped values."""
    return SafeHtml(_FORMATTER.format(template, **values))


def fill_each(template: str, rows: Iterable[Mapping[str, Any]]) -> SafeHtml:
    """Return the template filled once for each mapping of ``rows``, one after the other."""
    return SafeHtml("".join(fill(template, **row) for row in rows))


def printable(text: str) -> str:
    """Return the text with LF line ends and U+FFFD for what browsers can't show."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
