"""A text with ``$content.path`` and ``{{key,$content.path}}`` marks in, what it says out. Pure; Extra Horizon's syntax.

The marks are those of its template service's first version: Velocity's references to values, and the keys of
localizations. A mark that is none of these is refused rather than sent to a reader as it is.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from markupsafe import escape

from pipeline.content.twig import MAX_OUTPUT_BYTES, SOURCE_MAX_CHARS, VariableMention, limit_output
from pipeline.errors import MissingLocalization, Refused

MAX_ARGUMENTS: Final = 20
MAX_PIECES: Final = 200_000
"""Literals and values of one text, those in its localizations too; a template of the largest size has a quarter."""
LOCALIZATION_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}")
"""A localization's key."""
# Braces within braces belong to no key, so each is met once: linear. A full stop behind a name ends a sentence; within
# one it leads on. `$!` stands for nothing where there is no value.
_MARK: Final = re.compile(
    r"\{\{(?P<key>[^{}]*)\}\}(?!\})"
    r"|(?P<open>\{\{)"
    r"|\$(?P<quiet>!?)(?:content(?P<path>(?:\.[A-Za-z0-9_]+)+)|\{content(?P<braced>(?:\.[A-Za-z0-9_]+)+)\})"
    r"|\#(?P<directive>if|elseif|foreach|set)[ \t]{0,4}\("
)
_ARGUMENT: Final = re.compile(r"\$(\$|[1-9][0-9]?)")

Localize = Callable[[str], str]
"""A localization's key -> its text. Raises MissingLocalization."""


class _VariableMark(msgspec.Struct, frozen=True):
    line: int
    path: tuple[str, ...]
    quiet: bool


class _LocalizationMark(msgspec.Struct, frozen=True):
    line: int
    key: str
    arguments: tuple[tuple["str | _VariableMark", ...], ...]


_TextPart = str | _VariableMark | _LocalizationMark


def raise_missing_localization(key: str) -> str:
    """Raise MissingLocalization: there are no localizations."""
    raise MissingLocalization(f"there is no localization {key}")


class PlaceholderText:
    """A text taken apart: literals and marks in turn."""

    def __init__(self, source: str, *, html: bool) -> None:
        """Raises Refused, with the line, for a text that is too long, and for marks that mean nothing."""
        if len(source) > SOURCE_MAX_CHARS:
            raise Refused(f"more than {SOURCE_MAX_CHARS} characters")
        self._html = html
        self._parts = tuple(_parsed(source, 1))

    @property
    def mentions(self) -> tuple[VariableMention, ...]:
        """Each line and the path of a value that it names."""
        return tuple((part.line, part.path) for part in _variables(self._parts))

    @property
    def nodes(self) -> int:
        """The number of its literals and marks, those in a localization's arguments too."""
        arguments = (part.arguments for part in self._parts if isinstance(part, _LocalizationMark))
        return len(self._parts) + sum(len(argument) for given in arguments for argument in given)

    def render(
        self,
        values: Mapping[str, Any],
        now: int = 0,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
        localize: Localize = raise_missing_localization,
    ) -> str:
        """Return what it says with these values.

        Raise Refused, with line and variable or key, and for more than ``max_output_bytes``.
        """
        return "".join(limit_output(self._counted(values, localize), max_output_bytes))

    def _counted(self, values: Mapping[str, Any], localize: Localize) -> Iterator[str]:
        for count, piece in enumerate(self._said(values, localize)):
            # A piece that says nothing is work as well.
            if count > MAX_PIECES:
                raise Refused(f"it says more than {MAX_PIECES} literals and values")
            yield piece

    def _said(self, values: Mapping[str, Any], localize: Localize) -> Iterator[str]:
        for part in self._parts:
            if isinstance(part, _LocalizationMark):
                yield from self._localized(part, values, localize)
            else:
                yield self._filled(part, values)

    def _localized(self, mark: _LocalizationMark, values: Mapping[str, Any], localize: Localize) -> Iterator[str]:
        """A localization's text, as it is: markup, if it is markup; what is filled into it is escaped."""
        try:
            text = localize(mark.key)
        except MissingLocalization as missing:
            raise MissingLocalization(f"line {mark.line}: {missing}") from None
        end = 0
        for found in _ARGUMENT.finditer(text):
            yield text[end : found.start()]
            end = found.end()
            if found[1] == "$":
                yield "$"
                continue
            nth = int(found[1])
            if nth > len(mark.arguments):
                given = len(mark.arguments)
                raise Refused(
                    f"line {mark.line}: {mark.key} has ${nth}, and {given} arguments are given; $$ is a dollar"
                )
            for part in mark.arguments[nth - 1]:
                yield self._filled(part, values)
        yield text[end:]

    def _filled(self, part: str | _VariableMark, values: Mapping[str, Any]) -> str:
        if isinstance(part, str):
            return part
        line, path = part.line, part.path
        found: Any = values
        for name in path:
            if not isinstance(found, dict) or name not in found:
                if part.quiet:
                    return ""
                raise Refused(f"line {line}: there is no variable {'.'.join(path)}")
            found = found[name]
        if isinstance(found, dict | list):
            raise Refused(f"line {line}: {'.'.join(path)} is an object or a list; name one of its members")
        text = _text(found)
        return str(escape(text)) if self._html else text


def _parsed(source: str, line: int) -> Iterator[_TextPart]:
    end = 0
    for found in _MARK.finditer(source):
        line += source.count("\n", end, found.start())
        yield source[end : found.start()]
        if found["key"] is not None:
            yield _localization(found["key"], line)
            line += found["key"].count("\n")
        else:
            yield _variable(found, line)
        end = found.end()
    yield source[end:]


def _variable(found: re.Match[str], line: int) -> _VariableMark:
    if found["open"]:
        raise Refused(f"line {line}: {{{{ that opens no localization's key, such as {{{{greeting,$content.name}}}}")
    if found["directive"]:
        raise Refused(f"line {line}: there is no directive #{found['directive']}; the syntax twig has conditions")
    path = found["path"] or found["braced"]
    return _VariableMark(line, tuple(path[1:].split(".")), bool(found["quiet"]))


def _localization(mark: str, line: int) -> _LocalizationMark:
    key, *arguments = (part.strip() for part in mark.split(","))
    if not LOCALIZATION_KEY.fullmatch(key):
        raise Refused(
            f"line {line}: {{{{{mark[:100]}}}}} names no localization: letters, digits, . _ and -; at most 200"
        )
    if len(arguments) > MAX_ARGUMENTS:
        raise Refused(f"line {line}: {key} has more than {MAX_ARGUMENTS} arguments")
    return _LocalizationMark(line, key, tuple(tuple(_plain(_parsed(argument, line))) for argument in arguments))


def _plain(parts: Iterator[_TextPart]) -> Iterator[str | _VariableMark]:
    # There are no braces within braces, so no localization is in an argument of one.
    return (part for part in parts if not isinstance(part, _LocalizationMark))


def _variables(parts: Sequence[_TextPart]) -> Iterator[_VariableMark]:
    for part in parts:
        if isinstance(part, _LocalizationMark):
            for argument in part.arguments:
                yield from _variables(argument)
        elif isinstance(part, _VariableMark):
            yield part


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
