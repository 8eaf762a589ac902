"""A text with ``$content.path`` marks in, what it says with their values out. Pure; Extra Horizon's syntax."""

import re
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import escape

from pipeline.content.twig import OUTPUT_MAX, SOURCE_MAX, Mention
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

    def render(self, values: Mapping[str, Any], now: int = 0) -> str:
        """What it says with these values. Raises Refused, with line and variable."""
        said: list[str] = []
        left = OUTPUT_MAX
        for part in self._parts:
            piece = part if isinstance(part, str) else self._filled(*part, values)
            left -= len(piece)
            if left < 0:
                raise Refused(f"it says more than {OUTPUT_MAX} characters")
            said.append(piece)
        return "".join(said)

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
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)
