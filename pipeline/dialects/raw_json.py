"""Take JSON apart without building it: an array's items as bytes, nesting, limits, and what is wrong. Pure.

Items are taken apart first and read one by one, so that one that can't be read fails alone. Whatever looks at a
whole body here is linear in its size and needs no more memory than a copy of it: `json` and `re` would hold the
interpreter's lock, and build objects many times as large as the text.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from pipeline.errors import Refused

MAX_VALUES: Final = 1_000_000
"""Values of a whole body. Each costs some 60 bytes once it is read, and as little as two in JSON."""
_PIECE_BYTES: Final = 65_536
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_OPENING: Final = frozenset(b"[{")
_CLOSING: Final = frozenset(b"]}")
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_ITEM_SEPARATORS: Final = b" \t\n\r,"
_MSGSPEC_MESSAGE: Final = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING_FIELD_MESSAGE: Final = re.compile(r"^Object missing required field `(.+)`$")
_MARK: Final = re.compile(rb'["\[\]{},:]')
_LONE_HIGH: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_LONE_LOW: Final = re.compile(rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}")
FIELD_MISSING: Final = "missing"
LONE_SURROGATE_PROBLEM: Final = "half a surrogate pair, such as \\ud800: no text can hold it"
T = TypeVar("T")
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder(msgspec.Raw).decode


def check_limits(body: bytes, *, max_depth: int, max_values: int = MAX_VALUES) -> None:
    """Raise Refused for a body that is nested too deeply or holds too many values, before anything is built of it."""
    if _most_values(body) <= min(max_depth, max_values):
        return
    values = deepest = depth_here = 0
    for piece in _structure(body):
        for byte in piece:
            if byte in _CLOSING:
                depth_here -= 1
                continue
            values += 1
            if byte in _OPENING:
                depth_here += 1
                deepest = max(deepest, depth_here)
        if values > max_values:
            raise Refused(f"more than {max_values} values", "body")
        if deepest > max_depth:
            raise Refused(f"nested more than {max_depth} deep", "body")


def check_value_count(body: bytes, max_values: int = MAX_VALUES) -> None:
    """Raise Refused for a body of too many values."""
    if _most_values(body) > max_values:
        check_limits(body, max_depth=len(body), max_values=max_values)


def split_array(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """Return the array's items. Raise Refused, with what and where, for a body that is no JSON array."""
    try:
        # Raw values are skipped over, not read: bytes that are no text would pass.
        check_utf8(body)
        return _decode_items(body)
    except msgspec.ValidationError as error:
        raise Refused(str(error).replace("`", "").replace("Expected", "expected"), "body") from None
    except msgspec.DecodeError:
        return _split_broken(body)
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


def member_values(body: bytes, most: int) -> list[bytes]:
    """Return the values of an object's members, as they came. Raise Refused for no JSON, or more than ``most``."""
    check_utf8(body)
    try:
        _decode_any(body)
    except (msgspec.DecodeError, RecursionError) as error:
        if not _is_json(body):
            raise _not_json(error) from None
    values: list[bytes] = []
    nesting = start = at = 0
    while mark := _MARK.search(body, at):
        byte, at = mark[0], mark.end()
        if byte == b'"':
            at = _end_of_text(body, at)
            continue
        nesting += (byte in b"[{") - (byte in b"]}")
        if nesting == 1 and byte == b":":
            start = at
        elif start and (nesting == 0 or (nesting == 1 and byte == b",")):
            values.append(body[start : mark.start()].strip(_ITEM_SEPARATORS))
            start = 0
        if len(values) > most:
            raise Refused(f"more than {most} members", "body")
    return values


def decode_json(decode: Callable[[bytes], T], body: bytes) -> T:
    """Return the body as a decoder's type. Raise Refused with what and where; a path in it begins with a dot."""
    try:
        check_utf8(body)
        return decode(body)
    except msgspec.ValidationError as error:
        found = refusal_from_msgspec(str(error))
        raise Refused(str(found), found.where or "body") from None
    except msgspec.DecodeError as error:
        if _is_json(body):
            raise Refused(LONE_SURROGATE_PROBLEM, "body") from None
        raise _not_json(error) from None
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


def check_utf8(body: bytes) -> None:
    """Raise Refused for bytes that are no UTF-8."""
    try:
        if not body.isascii():
            body.decode()
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", f"byte {error.start}") from None


def _not_json(error: Exception) -> Refused:
    if isinstance(error, RecursionError):
        return Refused("nested too deeply", "body")
    what, _, place = str(error).rstrip(")").partition(" (")
    return Refused(f"not JSON: {what.removeprefix('JSON is malformed: ')}", place or "end of body")


def _is_json(body: bytes) -> bool:
    """By the grammar alone, which allows what no text can hold."""
    try:
        _decode_any(replace_lone_surrogates(body))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def refusal_from_msgspec(message: str, where: str = "") -> Refused:
    """Msgspec's words as ours: "Expected `int`, got `str` - at `$.brand_id`" -> expected int, at .brand_id."""
    found = _MSGSPEC_MESSAGE.match(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    if missing := _MISSING_FIELD_MESSAGE.match(what):
        return Refused(FIELD_MISSING, f"{where}{path}.{missing[1]}")
    return Refused((what[:1].lower() + what[1:]).replace("`", ""), f"{where}{path}")


def member_spans(text: str) -> Iterable[tuple[str, int, int]]:
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


def nesting_depth(raw: bytes, enough: int) -> int:
    """Return how deeply ``raw`` is nested; where that is surely no more than ``enough``, any number up to it."""
    if raw.count(b"{") + raw.count(b"[") <= enough:
        return enough
    here = deepest = 0
    for piece in _structure(raw):
        for byte in piece:
            here += (byte in _OPENING) - (byte in _CLOSING)
            deepest = max(deepest, here)
    return deepest


def replace_lone_surrogates(raw: bytes, filler: bytes = rb"\ufffd") -> bytes:
    r"""Return JSON with each half of a surrogate pair, such as ``"\ud800"``, replaced; no byte changes its place."""
    if b"\0" in raw:
        return raw
    # An escaped backslash begins no escape; a NUL, which JSON can't hold, stands for it meanwhile.
    hidden = raw.replace(rb"\\", b"\0\0")
    return _LONE_LOW.sub(lambda _: filler, _LONE_HIGH.sub(lambda _: filler, hidden)).replace(b"\0\0", rb"\\")


def read_despite_lone_surrogate(read: Callable[[bytes], T], raw: bytes) -> T | None:
    """Return what ``read`` finds in a value that holds half a surrogate pair; None if it is in what was found."""
    try:
        found, again = read(replace_lone_surrogates(raw)), read(replace_lone_surrogates(raw, rb"\ufffe"))
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found if found == again else None


def _most_values(body: bytes) -> int:
    """Return a number of values that surely isn't exceeded; quick, because marks within texts are counted, too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") + 1


def _structure(raw: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas that stand outside of texts, in pieces of bounded size."""
    at = 0
    while at < len(raw):
        quote = raw.find(b'"', at, at + _PIECE_BYTES)
        end = min(at + _PIECE_BYTES, len(raw)) if quote < 0 else quote
        if piece := raw[at:end].translate(None, _NOT_STRUCTURE):
            yield piece
        at = end if quote < 0 else _end_of_text(raw, quote + 1)


def _end_of_text(raw: bytes, at: int) -> int:
    """Return the place behind the quotation mark that ends the text; the end where none does."""
    while (quote := raw.find(b'"', at)) >= 0:
        before = raw[at:quote]
        # A quotation mark is the text's own where an odd number of backslashes stands before it.
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return quote + 1
        at = quote + 1
    return len(raw)


def _split_broken(body: bytes) -> list[bytes]:
    r"""Return the items where one of them holds half a surrogate pair, such as ``"\ud800"``.

    JSON's grammar allows that and no text can hold it: the item fails alone, instead of a batch
    that its sender would repeat for ever.
    """
    try:
        items = _decode_items(replace_lone_surrogates(body))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(error) from None
    found = []
    at = body.index(b"[") + 1
    for item in items:
        # What lies between two items is blanks and a comma; the mended ones are as long as those that came.
        while body[at] in _ITEM_SEPARATORS:
            at += 1
        found.append(body[at : at + len(bytes(item))])
        at += len(found[-1])
    return found


def _scanner() -> Callable[[str, int], tuple[Any, int]]:
    # Numbers aren't wanted here, and Python refuses to read those of over 4,300 digits.
    return json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_no_number).raw_decode


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
