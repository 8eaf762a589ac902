"""Print, compare and escape JSON values as PHP 8 and Twig do. Pure; the Twig renderer calls it.

https://www.php.net/manual/en/types.comparisons.php, https://twig.symfony.com/doc/3.x/filters/escape.html
"""

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

SpendWork = Callable[[int], None]
"""A function that deducts a number of characters from a work budget, and raises if the budget is exceeded."""

_NUMERIC: Final = re.compile(
    r"\A[ \t\n\r\v\f]*+[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?[ \t\n\r\v\f]*+"
)
_MAX_NUMERIC_CHARS: Final = 400
"""Characters of the longest text that is compared as a number."""
_FLOAT_DIGITS: Final = 14
"""Digits of a printed float: the default of PHP's setting `precision`."""
_ITEM_COST_CHARS: Final = 400
"""Characters that a comparison of two members counts as; it takes as long as reading so many."""


# ----------------------------------------------------------------------------- printing
def float_text(value: float) -> str:
    """Return a float as `echo` prints it: `10`, `0.1`, `1.0E+25`."""
    text = f"{value:.{_FLOAT_DIGITS}G}"
    mantissa, exponential, exponent = text.partition("E")
    if not exponential:
        return text
    return f"{mantissa}{'' if '.' in mantissa else '.0'}E{exponent[0]}{exponent[1:].lstrip('0')}"


# ---------------------------------------------------------------------------- comparing
def is_true(value: Any) -> bool:
    """Return whether a value is true in a condition: the text "0" and all empty values are false."""
    return bool(value) and not (isinstance(value, str) and value == "0")


def are_equal(left: Any, right: Any, spend: SpendWork) -> bool:
    """Return whether the values are equal by PHP's `==`."""
    return compare(left, right, spend) == 0


def compare(left: Any, right: Any, spend: SpendWork) -> int | None:
    """Return a number below, equal to or above 0 as `<=>` does; None if the values have no order, as with NAN."""
    if left is None and isinstance(right, str):
        left = ""
    elif right is None and isinstance(left, str):
        right = ""
    if left is None or right is None or isinstance(left, bool) or isinstance(right, bool):
        return is_true(left) - is_true(right)
    if isinstance(left, list | dict) or isinstance(right, list | dict):
        return _compare_members(left, right, spend)
    return _compare_scalars(left, right, spend)


def _compare_scalars(left: Any, right: Any, spend: SpendWork) -> int | None:
    spend(_cost(left) + _cost(right))
    numbers = _number(left), _number(right)
    if numbers[0] is None or numbers[1] is None:
        left, right = _scalar_text(left), _scalar_text(right)
    else:
        left, right = numbers
    if left == right:
        return 0
    if left < right:
        return -1
    return 1 if left > right else None


def _compare_members(left: Any, right: Any, spend: SpendWork) -> int | None:
    if not isinstance(right, list | dict):
        return 1
    if not isinstance(left, list | dict):
        return -1
    if len(left) != len(right):
        return len(left) - len(right)
    right_members = _members(right)
    for key, value in _members(left).items():
        spend(_ITEM_COST_CHARS)
        if key not in right_members:
            return None
        if (order := compare(value, right_members[key], spend)) != 0:
            return order
    return 0


def contains(whole: Any, part: Any, spend: SpendWork) -> bool:
    """Return whether a text contains a part, or a list or object a value, as Twig's `in` does."""
    if isinstance(whole, str):
        spend(len(whole) + _cost(part))
        return isinstance(part, str | int | float) and not isinstance(part, bool) and _scalar_text(part) in whole
    if not isinstance(whole, list | dict):
        return False
    for value in _members(whole).values():
        spend(_ITEM_COST_CHARS)
        if are_equal(part, value, spend):
            return True
    return False


def _members(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else dict(enumerate(value))


def _cost(value: Any) -> int:
    return len(value) if isinstance(value, str) else 1


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        return float(value) if len(value) <= _MAX_NUMERIC_CHARS and _NUMERIC.fullmatch(value) else None
    return value if isinstance(value, int | float) else None


def _scalar_text(value: Any) -> str:
    return float_text(value) if isinstance(value, float) else str(value)


# ----------------------------------------------------------------------------- escaping
_NOT_IN_ATTRIBUTES: Final = re.compile(r"[^a-zA-Z0-9,._-]")
_NOT_IN_SCRIPTS: Final = re.compile(r"[^a-zA-Z0-9,._]")
_NOT_IN_STYLES: Final = re.compile(r"[^a-zA-Z0-9]")
_ENTITIES: Final = {'"': "&quot;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JS_ESCAPES: Final = {
    **{"\\": r"\\", "/": r"\/", "\b": r"\b", "\f": r"\f"},
    **{"\n": r"\n", "\r": r"\r", "\t": r"\t"},
}


def _escape_in_attribute(match: "re.Match[str]") -> str:
    char = match[0]
    code = ord(char)
    if char in _ENTITIES:
        return _ENTITIES[char]
    if (code <= 0x1F and char not in "\t\n\r") or 0x7F <= code <= 0x9F:
        return "&#xFFFD;"
    return f"&#x{code:02X};" if code < 0x80 else f"&#x{code:04X};"


def _escape_in_script(match: "re.Match[str]") -> str:
    char = match[0]
    if char in _JS_ESCAPES:
        return _JS_ESCAPES[char]
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(rf"\u{units[at]:02X}{units[at + 1]:02X}" for at in range(0, len(units), 2))


ESCAPE_BY_STRATEGY: Final[dict[str, Callable[[str], str]]] = {
    "html_attr": lambda text: _NOT_IN_ATTRIBUTES.sub(_escape_in_attribute, text),
    "js": lambda text: _NOT_IN_SCRIPTS.sub(_escape_in_script, text),
    "css": lambda text: _NOT_IN_STYLES.sub(lambda match: rf"\{ord(match[0]):X} ", text),
    "url": lambda text: quote(text.encode("utf-8", "replace"), safe=""),
}
"""Twig's escaping strategies except `html`: for an attribute's value, a script, a style sheet and a URL."""
