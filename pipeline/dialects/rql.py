"""A query string in Extra Horizon's resource query language in; a jsonpath, an order and a page out. Pure.

Values are encoded twice where they could be mistaken for syntax (the SDK always does): once for the
URL, once for RQL. So the text is decoded once, taken apart, and then each value is decoded again.
What comes out is text for PostgreSQL's jsonpath, whose literals are JSON: nothing of a value is
ever syntax there. Grammar: https://github.com/persvr/rql
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from pipeline.errors import Refused
from projections.asking import FieldPath, ListingQuery

QUERY_MAX_CHARS: Final = 8_000
QUERY_MAX_DEPTH: Final = 20
MAX_TERMS: Final = 200
"""Terms of one query."""
MAX_PATH_STEPS: Final = 40
"""Of one field's path: each operator looks at all of them."""
MAX_PATH_INDEXES: Final = 3
"""Numbers in one field's path; each may be a place in a list or a name, so each doubles what is asked."""
PAGE_MAX_OBJECTS: Final = 50
_MAX_SORT_FIELDS: Final = 3

_FieldLocations = Sequence[tuple[tuple[str, ...], str]]
"""Where a field may be: what must hold for that, and its path."""
RqlValue = str | int | float | bool | None


class _OperatorCall(msgspec.Struct, frozen=True):
    name: str
    args: "list[_OperatorCall | str]"


class RqlFields(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of an object. A path may lead on into ``open`` ones."""

    texts: frozenset[str]
    numbers: frozenset[str]
    times: frozenset[str]
    open: frozenset[str] = frozenset()


_TOKEN: Final = re.compile(r"=[a-z]+=|[<>!=]=|[()&|,=<>]|[^()&|,=<>!]+|!")
_OPERATOR_BY_SIGN: Final = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_SIGN_BY_COMPARISON: Final = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_LITERAL_WORDS: Final[dict[str, RqlValue]] = {"true": True, "false": False, "null": None}
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_PAGING: Final = {"limit": "limit", "sort": "sort", "select": "select", "skipCount": "count", "skip_count": "count"}
"""Operators that speak of the page, not of its objects -> the method that reads them."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]{0,99}")
_TYPED_VALUE: Final = re.compile(r"(auto|string|number|boolean|date|isodate|epoch):(.*)", re.DOTALL)


def parse(query: str, fields: RqlFields) -> ListingQuery:
    """The question that a URL's query string asks. Raises Refused."""
    if len(query) > QUERY_MAX_CHARS:
        raise Refused(f"a query of more than {QUERY_MAX_CHARS} characters", "rql")
    text = unquote(query)
    if "\0" in text or "\ufffd" in text:
        raise Refused("not UTF-8, or with a NUL", "rql")
    return _JsonpathBuilder(fields).build(_RqlParser(text).top() if text else [])


class _RqlParser:
    """Text -> calls, each of them a name and arguments; whatever shorthand it was written in."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0
        self._terms = 0

    def top(self) -> list[_OperatorCall | str]:
        found = self._group(0)
        if self._at < len(self._tokens):
            raise Refused(f"{self._peek()!r} where nothing more is expected", "rql")
        return [found] if found.name != "and" else found.args

    def _group(self, depth: int) -> _OperatorCall:
        """Terms with & or with | between them."""
        terms: list[_OperatorCall | str] = [self._condition(depth)]
        joint = ""
        while self._peek() in ("&", "|"):
            if joint and self._peek() != joint:
                raise Refused("& and | in one group: put parentheses around each", "rql")
            joint = self._next()
            terms.append(self._condition(depth))
        return _OperatorCall("or" if joint == "|" else "and", terms)

    def _condition(self, depth: int) -> _OperatorCall:
        found = self._term(depth)
        if isinstance(found, str):
            raise Refused(f"{found!r} is no condition", "rql")
        return found

    def _term(self, depth: int) -> _OperatorCall | str:
        """``name(…)``, ``(…)``, ``field=value`` or a bare value."""
        self._terms += 1
        if depth > QUERY_MAX_DEPTH or self._terms > MAX_TERMS:
            raise Refused("too long or nested too deeply", "rql")
        if self._peek() == "(":
            return self._inside(depth)
        word = self._word()
        if self._peek() == "(":
            self._next()
            return _OperatorCall(word.strip(), self._args(depth))
        operator = self._peek()
        if operator in _OPERATOR_BY_SIGN or re.fullmatch(r"=[a-z]+=", operator):
            self._next()
            name = _OPERATOR_BY_SIGN.get(operator) or operator.strip("=")
            return _OperatorCall(name, [word, self._word()])
        return word

    def _inside(self, depth: int) -> _OperatorCall:
        """A group of conditions, or a list of values: a call without a name."""
        began = self._at
        self._next()
        self._word()
        if self._peek() in (",", ")"):
            self._at = began + 1
            return _OperatorCall("", self._args(depth))
        self._at = began + 1
        found = self._group(depth + 1)
        self._expect(")")
        return found

    def _args(self, depth: int) -> list[_OperatorCall | str]:
        found: list[_OperatorCall | str] = []
        if self._peek() != ")":
            found.append(self._term(depth + 1))
        while self._peek() == ",":
            self._next()
            found.append(self._term(depth + 1))
        self._expect(")")
        return found

    def _word(self) -> str:
        """A name or a value, which may be empty."""
        if self._peek() and not re.fullmatch(r"[()&|,=<>!].*", self._peek(), re.DOTALL):
            return self._next()
        return ""

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise Refused(f"{token!r} expected, not {self._peek() or 'the end'!r}", "rql")
        self._next()

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        self._at += 1
        return str(self._tokens[self._at - 1])


class _JsonpathBuilder:
    """Calls -> a question about objects with these fields."""

    def __init__(self, fields: RqlFields) -> None:
        self._fields = fields

    def build(self, calls: list[_OperatorCall | str]) -> ListingQuery:
        found: dict[str, Any] = {}
        conditions: list[str] = []
        for call in _flattened(calls):
            if call.name in _PAGING:
                found |= getattr(self, f"_{_PAGING[call.name]}")(call.args)
            else:
                conditions.append(self._condition(call, "$", ()))
        return ListingQuery(where=_joined(conditions, "&&") if conditions else None, **found)

    # ------------------------------------------------------------ the page
    def _limit(self, args: list[_OperatorCall | str]) -> dict[str, Any]:
        numbers = [_decoded(arg) for arg in args]
        whole = [int(number) for number in numbers if re.fullmatch(r"[0-9]{1,9}", number)]
        if not 1 <= len(numbers) <= 2 or len(whole) != len(numbers):
            raise Refused("limit: one or two whole numbers", "rql")
        return {"limit": min(whole[0], PAGE_MAX_OBJECTS), "offset": whole[1] if len(whole) > 1 else 0}

    def _sort(self, args: list[_OperatorCall | str]) -> dict[str, Any]:
        if not 1 <= len(args) <= _MAX_SORT_FIELDS:
            raise Refused(f"sort: one to {_MAX_SORT_FIELDS} fields", "rql")
        # A + may have been taken for a blank on its way.
        names = [_decoded(arg).strip() for arg in args]
        return {"sort": tuple((self._path(name.lstrip("+-")), name.startswith("-")) for name in names)}

    def _select(self, args: list[_OperatorCall | str]) -> dict[str, Any]:
        return {"select": tuple(self._path(_decoded(arg)) for arg in args)}

    def _count(self, _args: list[_OperatorCall | str]) -> dict[str, Any]:
        return {"count": False}

    # ------------------------------------------------------- the conditions
    def _condition(self, call: _OperatorCall | str, root: str, above: FieldPath) -> str:
        if isinstance(call, str):
            raise Refused(f"{call!r} is no condition", "rql")
        if call.name in ("and", "or"):
            inner = [self._condition(arg, root, above) for arg in call.args]
            return _joined(inner, "&&" if call.name == "and" else "||")
        if call.name in _PAGING:
            raise Refused(f"{call.name}: only beside conditions or in an and(…) with them, not within one", "rql")
        ask = _OPERATORS.get(call.name)
        if ask is None:
            raise Refused(f"{call.name}: no operator of ours; there are {', '.join(('and', 'or', *_OPERATORS))}", "rql")
        if not call.args:
            raise Refused(f"{call.name}: which field?", "rql")
        path = self._path(_decoded(call.args[0]), above)
        return ask(self, _places(root, path[len(above) :]), path, call)

    def _equal(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        if len(call.args) != 2:
            raise Refused(f"{call.name}: a field and a value", "rql")
        return self._one_of(at, path, call.args[1:])

    def _other(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        return f"!({self._equal(at, path, call)})"

    def _in(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        # in(field,(a,b)) is the standard's way, in(field,a,b) the SDK's.
        values = [inner for arg in call.args[1:] for inner in (arg.args if isinstance(arg, _OperatorCall) else [arg])]
        return self._one_of(at, path, values)

    def _out(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        return f"!({self._in(at, path, call)})"

    def _one_of(self, at: _FieldLocations, path: FieldPath, args: list[_OperatorCall | str]) -> str:
        literals = [literal for arg in args for literal in self._literals(path, _decoded(arg))]
        if not literals:
            raise Refused("no value to compare with", "rql")
        return _exists(at, " || ".join(f"@ == {literal}" for literal in literals))

    def _ordered(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        if len(call.args) != 2:
            raise Refused(f"{call.name}: a field and a value", "rql")
        sign = _SIGN_BY_COMPARISON[call.name]
        literals = self._literals(path, _decoded(call.args[1]))
        return _exists(at, " || ".join(f"@ {sign} {literal}" for literal in literals))

    def _like(self, at: _FieldLocations, _path: FieldPath, call: _OperatorCall) -> str:
        if len(call.args) != 2:
            raise Refused("like: a field and a text", "rql")
        return _exists(at, f'@ like_regex {json.dumps(_decoded(call.args[1]))} flag "iq"')

    def _contains(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        if len(call.args) == 1:
            return _exists(at)
        if all(isinstance(arg, str) for arg in call.args[1:]):
            return self._one_of(at, path, call.args[1:])
        inner = [self._condition(arg, "@", path) for arg in call.args[1:]]
        return _exists(at, _joined(inner, "&&"))

    def _excludes(self, at: _FieldLocations, path: FieldPath, call: _OperatorCall) -> str:
        return f"!({self._contains(at, path, call)})"

    # ------------------------------------------------------ fields and values
    def _path(self, name: str, above: FieldPath = ()) -> FieldPath:
        """A field's path: the SDK's camelCase, too, but below ``open`` fields names are the caller's own."""
        steps = (*above, *name.split("."))
        if len(steps) > MAX_PATH_STEPS or sum(map(_is_index, steps)) > MAX_PATH_INDEXES:
            raise Refused(
                f"a field of more than {MAX_PATH_STEPS} steps, or of more than {MAX_PATH_INDEXES} indexes", "rql"
            )
        fields = self._fields
        first = _snake(steps[0])
        path = (first, *steps[1:]) if first in fields.open else tuple(map(_snake, steps))
        known = fields.texts | fields.numbers | fields.times | fields.open
        begins = ".".join(_named(path)) + "."
        if first not in fields.open and not any((full + ".").startswith(begins) for full in known):
            raise Refused(f"{name}: no field of ours; there are {', '.join(sorted(known))}", "rql")
        if not all(_NAME.fullmatch(step) for step in path):
            raise Refused(f"{name}: not a field's name", "rql")
        return path

    def _literals(self, path: FieldPath, text: str) -> list[str]:
        """A value as jsonpath writes it; both where a field may hold a number or a text."""
        dotted = ".".join(_named(path))
        if dotted in self._fields.texts:
            return [_quoted(re.sub(r"^string:", "", text))]
        if dotted in self._fields.times:
            return [_quoted(_time(text))]
        value = _converted(text)
        if dotted in self._fields.numbers:
            if isinstance(value, str):
                raise Refused(f"{dotted}: {value!r} is no number", "rql")
            return [_quoted(value)]
        same: list[RqlValue] = [value] if isinstance(value, str) or ":" in text else [value, text]
        return list(dict.fromkeys(_quoted(each) for each in same))


_OperatorMethod = Callable[[_JsonpathBuilder, _FieldLocations, FieldPath, _OperatorCall], str]
_OPERATORS: Final[dict[str, _OperatorMethod]] = {
    "eq": _JsonpathBuilder._equal,
    "ne": _JsonpathBuilder._other,
    "in": _JsonpathBuilder._in,
    "out": _JsonpathBuilder._out,
    **dict.fromkeys(_SIGN_BY_COMPARISON, _JsonpathBuilder._ordered),
    "like": _JsonpathBuilder._like,
    "contains": _JsonpathBuilder._contains,
    "excludes": _JsonpathBuilder._excludes,
}


def _joined(conditions: Collection[str], sign: str) -> str:
    if not conditions:
        raise Refused("and, or: of what?", "rql")
    return "(" + f" {sign} ".join(conditions) + ")"


def _flattened(calls: Iterable[_OperatorCall | str]) -> Iterator[_OperatorCall]:
    """Yield what stands side by side, in and(…) too: what speaks of the page may stand in there."""
    for call in calls:
        if isinstance(call, str):
            raise Refused(f"{call!r} is no condition", "rql")
        if call.name == "and" and call.args:
            yield from _flattened(call.args)
        else:
            yield call


def _places(root: str, steps: FieldPath) -> _FieldLocations:
    """Return where a field may be: a number is a place in a list, or a name in an object."""
    places: list[tuple[tuple[str, ...], str]] = [((), root)]
    for step in steps:
        # Outside a list, [0] would be the value itself.
        in_lists = [((*when, f'{at}.type() == "array"'), f"{at}[{step}]") for when, at in places if _is_index(step)]
        places = in_lists + [(when, f"{at}.{json.dumps(step)}") for when, at in places]
    return places


def _exists(places: _FieldLocations, test: str = "") -> str:
    """Return the predicate that a value is at one of the places, and passes a test."""
    tested = f" ? ({test})" if test else ""
    found = [" && ".join((*when, f"exists({at}{tested})")) for when, at in places]
    return found[0] if len(found) == 1 else "(" + " || ".join(f"({one})" for one in found) + ")"


def _is_index(step: str) -> bool:
    return _INDEX.fullmatch(step) is not None


def _named(path: FieldPath) -> FieldPath:
    """The path without its indexes: what sort of value is there."""
    return tuple(step for step in path if not _is_index(step))


def _decoded(arg: _OperatorCall | str) -> str:
    if isinstance(arg, _OperatorCall):
        raise Refused(f"{arg.name}(…) where a value is expected", "rql")
    text = unquote(arg)
    if "\0" in text or "\ufffd" in text:
        raise Refused("not UTF-8, or with a NUL", "rql")
    return text


def _converted(text: str) -> RqlValue:
    kind, value = found.groups() if (found := _TYPED_VALUE.fullmatch(text)) else ("auto", text)
    if kind == "string":
        return value
    if kind in ("date", "isodate", "epoch"):
        return _time(value)
    if kind == "boolean":
        return bool(value == "true")
    if kind == "auto" and value in _LITERAL_WORDS:
        return _LITERAL_WORDS[value]
    if _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    if kind == "number":
        raise Refused(f"{value!r} is no number", "rql")
    return value


def _time(text: str) -> RqlValue:
    """Milliseconds, whether they or an ISO date are given."""
    text = re.sub(r"^(auto|number|date|isodate|epoch):", "", text)
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"{text!r} is no time: milliseconds, or an ISO date", "rql") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _quoted(value: RqlValue) -> str:
    return json.dumps(value)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)
