"""A JSON array's bytes -> its items' bytes, each as it came; how deeply a value is nested; what is wrong. Pure.

Items are taken apart first and read one by one, so that one that can't be read fails alone.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from pipeline.errors import Refused

_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|([\]}])')
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(.+)`$")
MISSING: Final = "missing"
HALF_A_PAIR: Final = "half a surrogate pair, such as \\ud800: no text can hold it"
T = TypeVar("T")
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def split(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """The array's items. Raises Refused, with what and where, for a body that is no JSON array."""
    try:
        # Raw values are skipped over, not read: bytes that are no text would pass.
        if not body.isascii():
            body.decode()
        return _items(body)
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise Refused(str(error).replace("`", "").replace("Expected", "expected"), "body") from None
    except msgspec.DecodeError as error:
        return _split_slowly(body.decode(), error)
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


def typed(decode: Callable[[bytes], T], body: bytes) -> T:
    """The body as a decoder's type. Raises Refused with what and where; a path in the body begins with a dot."""
    try:
        if not body.isascii():
            body.decode()
        return decode(body)
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"byte {error.start}") from None
    except msgspec.ValidationError as error:
        found = refusal(str(error))
        raise Refused(str(found), found.where or "body") from None
    except msgspec.DecodeError as error:
        if _is_json(body):
            raise Refused(HALF_A_PAIR, "body") from None
        what, _, place = str(error).rstrip(")").partition(" (")
        raise Refused(f"not JSON: {what.removeprefix('JSON is malformed: ')}", place or "end of body") from None
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


def _is_json(body: bytes) -> bool:
    """By the grammar alone, which allows what no text can hold."""
    try:
        text = body.decode()
        _, end = _scanner()(text, _skip(text, 0))
    except (ValueError, RecursionError):
        return False
    return _skip(text, end) == len(text)


def refusal(message: str, where: str = "") -> Refused:
    """Msgspec's words as ours: "Expected `int`, got `str` - at `$.brand_id`" -> expected int, at .brand_id."""
    found = _AT.match(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    if missing := _MISSING.match(what):
        return Refused(MISSING, f"{where}{path}.{missing[1]}")
    return Refused((what[:1].lower() + what[1:]).replace("`", ""), f"{where}{path}")


def members(text: str) -> Iterable[tuple[str, int, int]]:
    """Each member of an object: its name, and where its value begins and ends in the text, which is JSON."""
    scan = _scanner()
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = scan(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = scan(text, start)
        yield name, start, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def depth(raw: bytes, enough: int) -> int:
    """How deeply ``raw`` is nested; where that is surely no more than ``enough``, any number up to it."""
    if raw.count(b"{") + raw.count(b"[") <= enough:
        return enough
    here = deepest = 0
    for found in _BRACKETS.finditer(raw):
        here += (found[1] is not None) - (found[2] is not None)
        deepest = max(deepest, here)
    return deepest


def text_at(raw: bytes, *path: str) -> str | None:
    """The text at ``path`` of a value that holds half a surrogate pair elsewhere; None if there is none."""
    try:
        value = json.loads(raw, parse_int=len, parse_float=len)
        for name in path:
            value = value[name]
        return value if isinstance(value, str) and value.encode() else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _split_slowly(text: str, error: msgspec.DecodeError) -> list[bytes]:
    r"""The items where one of them holds half a surrogate pair, such as ``"\ud800"``.

    JSON's grammar allows that and no text can hold it: the item fails alone, instead of a batch
    that its sender would repeat for ever.
    """
    try:
        return list(_slices(text))
    except RecursionError:
        raise Refused("nested too deeply", "body") from None
    except (ValueError, IndexError):
        what, _, place = str(error).rstrip(")").partition(" (")
        raise Refused(f"not JSON: {what.removeprefix('JSON is malformed: ')}", place or "end of body") from None


def _slices(text: str) -> Iterable[bytes]:
    scan = _scanner()
    at = _skip(text, text.index("[") + 1)
    while True:
        _, end = scan(text, at)
        yield text[at:end].encode()
        at = _skip(text, end)
        if text[at] != ",":
            break
        at = _skip(text, at + 1)
    if text[at] != "]" or _skip(text, at + 1) != len(text):
        raise ValueError("not a JSON array")


def _scanner() -> Callable[[str, int], tuple[Any, int]]:
    # Numbers aren't wanted here, and Python refuses to read those of over 4,300 digits.
    return json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_no_number).raw_decode


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
