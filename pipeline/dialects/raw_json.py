"""Split and check JSON without decoding all of it: an array's items as bytes, depth and number of values. Pure.

All dialects call it. Items are split first and decoded one by one, so that a malformed one doesn't fail the others.
Each function that reads a whole body takes linear time and no more memory than a copy of the body. `json` and `re`
would hold the interpreter's lock for the whole body and build objects many times as large as the text.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from pipeline.errors import Refused

MAX_VALUES: Final = 1_000_000
"""Values of a whole body. A decoded one takes some 60 bytes of memory, for as little as two bytes of JSON."""
_PIECE_BYTES: Final = 65_536
_COUNTED_PIECE_BYTES: Final = 1_000_000
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
    """Raise Refused for a body that is nested too deeply or has too many values, without decoding it."""
    if _max_values(body) <= min(max_depth, max_values):
        return
    values = deepest = depth = 0
    for piece in _structure(body):
        for byte in piece:
            if byte in _CLOSING:
                depth -= 1
                continue
            values += 1
            if byte in _OPENING:
                depth += 1
                deepest = max(deepest, depth)
        if values > max_values:
            raise Refused(f"more than {max_values} values", "body")
        if deepest > max_depth:
            raise Refused(f"nested more than {max_depth} deep", "body")


def check_value_count(body: bytes, max_values: int = MAX_VALUES) -> None:
    """Raise Refused for a body with too many values."""
    if _max_values(body) > max_values:
        check_limits(body, max_depth=len(body), max_values=max_values)


def split_array(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """Return the array's items. Raise Refused for a body that is no JSON array."""
    try:
        # The decoder skips over raw values without reading their texts, so it would accept bytes that are no UTF-8.
        check_utf8(body)
        return _decode_items(body)
    except msgspec.ValidationError as error:
        raise Refused(str(error).replace("`", "").replace("Expected", "expected"), "body") from None
    except msgspec.DecodeError:
        return _split_with_lone_surrogates(body)
    except RecursionError:
        raise Refused("nested too deeply", "body") from None


def member_values(body: bytes, max_members: int) -> list[bytes]:
    """Return the values of an object's members, unchanged. Raise Refused for malformed JSON or too many members."""
    check_utf8(body)
    try:
        _decode_any(body)
    except (msgspec.DecodeError, RecursionError) as error:
        if not _is_json(body):
            raise _not_json(error) from None
    values: list[bytes] = []
    depth = start = position = 0
    while mark := _MARK.search(body, position):
        byte, position = mark[0], mark.end()
        if byte == b'"':
            position = _end_of_text(body, position)
            continue
        depth += (byte in b"[{") - (byte in b"]}")
        if depth == 1 and byte == b":":
            start = position
        elif start and (depth == 0 or (depth == 1 and byte == b",")):
            values.append(body[start : mark.start()].strip(_ITEM_SEPARATORS))
            start = 0
        if len(values) > max_members:
            raise Refused(f"more than {max_members} members", "body")
    return values


def decode_json(decode: Callable[[bytes], T], body: bytes) -> T:
    """Return the body as a decoder's type. Raise Refused; a path to a value in its ``where`` begins with a dot."""
    try:
        check_utf8(body)
        return decode(body)
    except msgspec.ValidationError as error:
        refusal = refusal_from_msgspec(str(error))
        raise Refused(str(refusal), refusal.where or "body") from None
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
    problem, _, place = str(error).rstrip(")").partition(" (")
    return Refused(f"not JSON: {problem.removeprefix('JSON is malformed: ')}", place or "end of body")


def _is_json(body: bytes) -> bool:
    """Return whether the body is JSON by its grammar, which allows lone surrogates, unlike the decoder."""
    try:
        _decode_any(replace_lone_surrogates(body))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def refusal_from_msgspec(message: str, where: str = "") -> Refused:
    """Return an error message of msgspec as a refusal, with its path below ``where``.

    "Expected `int`, got `str` - at `$.brand_id`" becomes "expected int, got str" at ``.brand_id``.
    """
    match = _MSGSPEC_MESSAGE.match(message)
    problem, path = (match["what"], match["path"] or "") if match else (message, "")
    if missing := _MISSING_FIELD_MESSAGE.match(problem):
        return Refused(FIELD_MISSING, f"{where}{path}.{missing[1]}")
    return Refused((problem[:1].lower() + problem[1:]).replace("`", ""), f"{where}{path}")


def member_spans(text: str) -> Iterable[tuple[str, int, int]]:
    """Yield the name of each member of a JSON object, and where its value begins and ends in the text."""
    scan = _scanner()
    position = _skip_blanks(text, text.index("{") + 1)
    while text[position] != "}":
        name, position = scan(text, position)
        start = _skip_blanks(text, _skip_blanks(text, position) + 1)
        _, end = scan(text, start)
        yield name, start, end
        position = _skip_blanks(text, end)
        if text[position] == ",":
            position = _skip_blanks(text, position + 1)


def nesting_depth(raw: bytes, enough: int) -> int:
    """Return the depth of ``raw``; if a quick look shows that it is at most ``enough``, return ``enough`` instead."""
    if raw.count(b"{") + raw.count(b"[") <= enough:
        return enough
    depth = deepest = 0
    for piece in _structure(raw):
        for byte in piece:
            depth += (byte in _OPENING) - (byte in _CLOSING)
            deepest = max(deepest, depth)
    return deepest


def replace_lone_surrogates(raw: bytes, filler: bytes = rb"\ufffd") -> bytes:
    r"""Return JSON with each half of a surrogate pair, such as ``"\ud800"``, replaced; all positions stay the same."""
    if b"\0" in raw:
        return raw
    # The second of two backslashes begins no escape: NULs, which JSON can't contain, replace both during the search.
    without_backslashes = raw.replace(rb"\\", b"\0\0")
    return _LONE_LOW.sub(lambda _: filler, _LONE_HIGH.sub(lambda _: filler, without_backslashes)).replace(
        b"\0\0", rb"\\"
    )


def read_despite_lone_surrogate(read: Callable[[bytes], T], raw: bytes) -> T | None:
    """Return what ``read`` returns for JSON with half a surrogate pair; None if the result would contain that half."""
    try:
        # A result with the half in it differs between the two fillers.
        result = read(replace_lone_surrogates(raw))
        other_result = read(replace_lone_surrogates(raw, rb"\ufffe"))
    except (msgspec.MsgspecError, RecursionError):
        return None
    return result if result == other_result else None


def _max_values(body: bytes) -> int:
    """Return an upper bound of the number of values; fast, because it counts the marks within texts, too.

    It counts in pieces: a call that counts in 60 MB holds the interpreter's lock for 25 ms.
    """
    return 1 + sum(
        body.count(mark, start, start + _COUNTED_PIECE_BYTES)
        for start in range(0, len(body), _COUNTED_PIECE_BYTES)
        for mark in (b",", b"[", b"{")
    )


def _structure(raw: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas outside of texts, in pieces of bounded size."""
    position = 0
    while position < len(raw):
        quote = raw.find(b'"', position, position + _PIECE_BYTES)
        end = min(position + _PIECE_BYTES, len(raw)) if quote < 0 else quote
        if piece := raw[position:end].translate(None, _NOT_STRUCTURE):
            yield piece
        position = end if quote < 0 else _end_of_text(raw, quote + 1)


def _end_of_text(raw: bytes, start: int) -> int:
    """Return the position after the quotation mark that ends the text; the end of ``raw`` if there is none."""
    while (quote := raw.find(b'"', start)) >= 0:
        before = raw[start:quote]
        # After an odd number of backslashes, a quotation mark is part of the text.
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return quote + 1
        start = quote + 1
    return len(raw)


def _split_with_lone_surrogates(body: bytes) -> list[bytes]:
    r"""Return the items of an array in which one has half a surrogate pair, such as ``"\ud800"``.

    JSON's grammar allows that, but it can't be decoded. Only that item is to fail: if the whole batch failed, its
    sender would send it again for ever.
    """
    try:
        items = _decode_items(replace_lone_surrogates(body))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(error) from None
    original_items = []
    position = body.index(b"[") + 1
    for item in items:
        # Between two items are white space and a comma; a replaced half doesn't change an item's length.
        while body[position] in _ITEM_SEPARATORS:
            position += 1
        original_items.append(body[position : position + len(bytes(item))])
        position += len(original_items[-1])
    return original_items


def _scanner() -> Callable[[str, int], tuple[Any, int]]:
    # The numbers' values aren't needed, and Python refuses to convert integers of more than 4,300 digits.
    return json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse_constant).raw_decode


def _skip_blanks(text: str, position: int) -> int:
    """Return the position of the next character that isn't white space."""
    blanks = _BLANK.match(text, position)
    return blanks.end() if blanks else position


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
