"""Render texts in Extra Horizon's syntax, with ``$content.path`` and ``{{key,$content.path}}`` marks. Pure.

`pipeline.content.render` calls it. The marks are those of the first version of Extra Horizon's template service:
Velocity's references to values, and the keys of localizations. Any other mark is refused instead of sent as it is.
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
"""Literals and values of a rendered text with its localizations, four times those of the largest template."""
LOCALIZATION_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}")
"""A localization's key."""
# A key contains no braces, so each brace is matched once, in linear time. A full stop after a path ends a sentence; it
# is part of the path only before another name. `$!` is an empty text if there is no value.
_MARK: Final = re.compile(
    r"\{\{(?P<key>[^{}]*)\}\}(?!\})"
    r"|(?P<open>\{\{)"
    r"|\$(?P<quiet>!?)(?:content(?P<path>(?:\.[A-Za-z0-9_]+)+)|\{content(?P<braced>(?:\.[A-Za-z0-9_]+)+)\})"
    r"|\#(?P<directive>if|elseif|foreach|set)[ \t]{0,4}\("
)
_ARGUMENT: Final = re.compile(r"\$(\$|[1-9][0-9]?)")

Localize = Callable[[str], str]
"""A function that returns the text of a localization's key, or raises MissingLocalization."""


class _VariableMark(msgspec.Struct, frozen=True):
    """A reference to a value; a ``quiet`` one is an empty text if there is no value."""

    line: int
    path: tuple[str, ...]
    quiet: bool


class _LocalizationMark(msgspec.Struct, frozen=True):
    """A localization's key with its arguments, each a sequence of literals and values."""

    line: int
    key: str
    arguments: tuple[tuple["str | _VariableMark", ...], ...]


_TextPart = str | _VariableMark | _LocalizationMark


def raise_missing_localization(key: str) -> str:
    """Raise MissingLocalization; used where a tenant has no localizations."""
    raise MissingLocalization(f"there is no localization {key}")


class PlaceholderText:
    """A compiled text: literals and marks in turn."""

    def __init__(self, source: str, *, html: bool) -> None:
        """Compile the source. Raise Refused with the line for invalid marks, and for a text that is too long."""
        if len(source) > SOURCE_MAX_CHARS:
            raise Refused(f"more than {SOURCE_MAX_CHARS} characters")
        self._html = html
        self._parts = tuple(_parse(source, 1))

    @property
    def mentions(self) -> tuple[VariableMention, ...]:
        """Return the variables that the text names, each with its line."""
        return tuple((part.line, part.path) for part in _variables(self._parts))

    @property
    def nodes(self) -> int:
        """Return the number of literals and marks, with those in localizations' arguments."""
        localizations = (part for part in self._parts if isinstance(part, _LocalizationMark))
        return len(self._parts) + sum(len(argument) for mark in localizations for argument in mark.arguments)

    def render(
        self,
        values: Mapping[str, Any],
        now: int = 0,
        max_output_bytes: int = MAX_OUTPUT_BYTES,
        localize: Localize = raise_missing_localization,
    ) -> str:
        """Return the text with these values. Raise Refused with the line and the variable or key.

        An output of more than ``max_output_bytes`` is refused as well. ``now`` isn't used: the syntax has no dates.
        """
        return "".join(limit_output(self._limited_pieces(values, localize), max_output_bytes))

    def _limited_pieces(self, values: Mapping[str, Any], localize: Localize) -> Iterator[str]:
        for count, piece in enumerate(self._pieces(values, localize)):
            # Empty pieces count, too: they take time to render.
            if count > MAX_PIECES:
                raise Refused(f"it says more than {MAX_PIECES} literals and values")
            yield piece

    def _pieces(self, values: Mapping[str, Any], localize: Localize) -> Iterator[str]:
        for part in self._parts:
            if isinstance(part, _LocalizationMark):
                yield from self._localized_pieces(part, values, localize)
            else:
                yield self._value_text(part, values)

    def _localized_pieces(
        self, mark: _LocalizationMark, values: Mapping[str, Any], localize: Localize
    ) -> Iterator[str]:
        """Yield a localization's text unescaped, because it may be markup, with its arguments escaped."""
        try:
            text = localize(mark.key)
        except MissingLocalization as missing:
            raise MissingLocalization(f"line {mark.line}: {missing}") from None
        end = 0
        for argument in _ARGUMENT.finditer(text):
            yield text[end : argument.start()]
            end = argument.end()
            if argument[1] == "$":
                yield "$"
                continue
            number = int(argument[1])
            if number > len(mark.arguments):
                raise Refused(
                    f"line {mark.line}: {mark.key} has ${number}, and {len(mark.arguments)} arguments are given; "
                    "$$ is a dollar"
                )
            for part in mark.arguments[number - 1]:
                yield self._value_text(part, values)
        yield text[end:]

    def _value_text(self, part: str | _VariableMark, values: Mapping[str, Any]) -> str:
        if isinstance(part, str):
            return part
        line, path = part.line, part.path
        value: Any = values
        for name in path:
            if not isinstance(value, dict) or name not in value:
                if part.quiet:
                    return ""
                raise Refused(f"line {line}: there is no variable {'.'.join(path)}")
            value = value[name]
        if isinstance(value, dict | list):
            raise Refused(f"line {line}: {'.'.join(path)} is an object or a list; name one of its members")
        text = _printed(value)
        return str(escape(text)) if self._html else text


def _parse(source: str, line: int) -> Iterator[_TextPart]:
    """Yield literals and marks in turn. Raise Refused; ``line`` is the number of the first line."""
    end = 0
    for mark in _MARK.finditer(source):
        line += source.count("\n", end, mark.start())
        yield source[end : mark.start()]
        if mark["key"] is not None:
            yield _parse_localization(mark["key"], line)
            line += mark["key"].count("\n")
        else:
            yield _parse_variable(mark, line)
        end = mark.end()
    yield source[end:]


def _parse_variable(mark: re.Match[str], line: int) -> _VariableMark:
    if mark["open"]:
        raise Refused(f"line {line}: {{{{ that opens no localization's key, such as {{{{greeting,$content.name}}}}")
    if mark["directive"]:
        raise Refused(f"line {line}: there is no directive #{mark['directive']}; the syntax twig has conditions")
    path = mark["path"] or mark["braced"]
    return _VariableMark(line, tuple(path[1:].split(".")), bool(mark["quiet"]))


def _parse_localization(mark: str, line: int) -> _LocalizationMark:
    key, *arguments = (part.strip() for part in mark.split(","))
    if not LOCALIZATION_KEY.fullmatch(key):
        raise Refused(
            f"line {line}: {{{{{mark[:100]}}}}} names no localization: letters, digits, . _ and -; at most 200"
        )
    if len(arguments) > MAX_ARGUMENTS:
        raise Refused(f"line {line}: {key} has more than {MAX_ARGUMENTS} arguments")
    return _LocalizationMark(
        line, key, tuple(tuple(_without_localizations(_parse(argument, line))) for argument in arguments)
    )


def _without_localizations(parts: Iterator[_TextPart]) -> Iterator[str | _VariableMark]:
    # Nothing is lost: a key and its arguments contain no braces, so no localization can be among the parts.
    return (part for part in parts if not isinstance(part, _LocalizationMark))


def _variables(parts: Sequence[_TextPart]) -> Iterator[_VariableMark]:
    for part in parts:
        if isinstance(part, _LocalizationMark):
            for argument in part.arguments:
                yield from _variables(argument)
        elif isinstance(part, _VariableMark):
            yield part


def _printed(value: Any) -> str:
    """Return a value as JavaScript prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return _float_text(value) if isinstance(value, float) else str(value)


def _float_text(value: float) -> str:
    """Return a number by ECMA-262's Number::toString: decimal from 1e-6 to 1e21, exponents without leading zeros."""
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
