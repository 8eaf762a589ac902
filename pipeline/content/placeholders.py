"""A text with ``$content.path`` marks in, what it says with their values out. Pure; Extra Horizon's syntax."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import escape

from pipeline.content.twig import MAX_OUTPUT_BYTES, SOURCE_MAX, Mention, bounded
from pipeline.errors import Refused

# A full stop behind a name ends a sentence; within one it leads on.
_MARK: Final = re.compile(r"\$content((?:\.[A-Za-z0-9_]+)+)")


class Placeholders:
    """A text taken apart: literals and paths in turn."""

    def __init__(self, source: str, *, html: bool) -> None:
        """Raises Refused for a text that is too long; any other says something."""
        if len(source) > SOURCE_MAX:
            raise Refused(f"more than {SOURCE_MAX} characters")
        self._html = html
        self._parts: list[str | Mention] = []
        line, end = 1, 0
        for found in _MARK.finditer(source):
            line += source.count("\n", end, found.start())
            self._parts += [source[end : found.start()], (line, tuple(found[1][1:].split(".")))]
            end = found.end()
        self._parts.append(source[end:])

    @property
    def mentions(self) -> tuple[Mention, ...]:
        """Each line and the path that it names."""
        return tuple(part for part in self._parts if not isinstance(part, str))

    @property
    def nodes(self) -> int:
        """The number of its literals and marks."""
        return len(self._parts)

    def render(self, values: Mapping[str, Any], now: int = 0, max_output_bytes: int = MAX_OUTPUT_BYTES) -> str:
        """What it says with these values. Raises Refused, with line and variable, and for more bytes than this."""
        pieces = (part if isinstance(part, str) else self._filled(*part, values) for part in self._parts)
        return "".join(bounded(pieces, max_output_bytes))

    def _filled(self, line: int, path: tuple[str, ...], values: Mapping[str, Any]) -> str:
        found: Any = values
        for name in path:
            if not isinstance(found, dict) or name not in found:
                raise Refused(f"line {line}: there is no variable {'.'.join(path)}")
            found = found[name]
        if isinstance(found, dict | list):
            raise Refused(f"line {line}: {'.'.join(path)} is an object or a list; name one of its members")
        text = _text(found)
        return str(escape(text)) if self._html else text


def _text(value: Any) -> str:
    """As JavaScript would print it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return _float_text(value) if isinstance(value, float) else str(value)


def _float_text(value: float) -> str:
    """ECMA-262, Number::toString: decimal from 1e-6 up to 1e21, and exponents without leading zeros."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    mantissa, exponential, exponent = repr(value).partition("e")
    if not exponential:
        return mantissa
    if 1e-6 <= abs(value) < 1:
        return f"{value:.{len(mantissa.lstrip('-').replace('.', '')) - 1 - int(exponent)}f}"
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"
