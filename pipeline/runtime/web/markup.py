"""HTML templates that escape every value; used by pages that show text which strangers wrote."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from markupsafe import Markup

_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tab and line feed, and halves of surrogate pairs, which UTF-8 can't encode."""


def fill(template: str, **values: Any) -> Markup:
    """Return the template with its ``{fields}`` replaced by the escaped values; Markup stays as it is."""
    return Markup(template).format(**{name: _shown(value) for name, value in values.items()})  # noqa: S704 - ours


def fill_each(template: str, rows: Iterable[Mapping[str, Any]]) -> Markup:
    """Return the template filled once for each mapping of ``rows``, one after the other."""
    return Markup("").join(fill(template, **row) for row in rows)


def _shown(value: Any) -> str:
    return value if isinstance(value, Markup) else printable(str(value))


def printable(text: str) -> str:
    """Return the text with LF line ends and U+FFFD for what browsers can't show."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
