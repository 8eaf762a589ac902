"""Translate Extra Horizon's resource query language (RQL) into a jsonpath, an order and a page. Pure.

`pipeline.gateway.routes.extrahorizon` calls it with the query string of a listing. Values that could be mistaken for
syntax are percent-encoded twice, by the SDK always: once for the URL, once for RQL. So the text is decoded once, parsed
by :mod:`pipeline.dialects.rql_parser`, and then each value is decoded again. The jsonpath is PostgreSQL's; values are
written in it as JSON literals, so that no part of a value can become syntax.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from pipeline.dialects.rql_parser import OperatorCall, parse_calls
from pipeline.errors import Refused
from projections.listing_query import FieldPath, ListingQuery

QUERY_MAX_CHARS: Final = 8_000
MAX_PATH_STEPS: Final = 40
"""Steps of one field's path; the database evaluates all of them for each operator."""
MAX_PATH_INDEXES: Final = 3
"""Numbers in one field's path; each may be an index of a list or a name, so each doubles the paths of the query."""
PAGE_MAX_OBJECTS: Final = 50
_MAX_SORT_FIELDS: Final = 3

_FieldLocations = Sequence[tuple[tuple[str, ...], str]]
"""The jsonpaths where a field may be, each with the conditions under which it is there."""
RqlValue = str | int | float | bool | None


class RqlFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of an object that a query may name, by type; below an ``open`` field any path is allowed."""

    texts: frozenset[str]
    numbers: frozenset[str]
    times: frozenset[str]
    open: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    """First names of fields by which the caller may not filter or sort; it may select them."""


class HiddenRqlField(Refused):
    """A condition or an order that would reveal a field which the caller may not see."""


_SIGN_BY_COMPARISON: Final = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_LITERAL_WORDS: Final[dict[str, RqlValue]] = {"true": True, "false": False, "null": None}
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_PAGING: Final = {"limit": "limit", "sort": "sort", "select": "select", "skipCount": "count", "skip_count": "count"}
"""The operators for the page instead of its objects, and the method of `_JsonpathBuilder` for each."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]{0,99}")
_TYPED_VALUE: Final = re.compile(r"(auto|string|number|boolean|date|isodate|epoch):(.*)", re.DOTALL)


def parse(query: str, fields: RqlFields) -> ListingQuery:
    """Return the listing query of a URL's query string. Raise Refused."""
    if len(query) > QUERY_MAX_CHARS:
        raise Refused(f"a query of more than {QUERY_MAX_CHARS} characters", "rql")
    text = unquote(query)
    if "\0" in text or "\ufffd" in text:
        raise Refused("not UTF-8, or with a NUL", "rql")
    return _JsonpathBuilder(fields).build(parse_calls(text) if text else [])


class _JsonpathBuilder:
    """Builds a listing query about objects with these fields from operator calls."""

    def __init__(self, fields: RqlFields) -> None:
        self._fields = fields

    def build(self, calls: list[OperatorCall | str]) -> ListingQuery:
        """Return the query of calls that are joined by "and". Raise Refused."""
        page_options: dict[str, Any] = {}
        conditions: list[str] = []
        for call in _flattened(calls):
            if call.name in _PAGING:
                page_options |= getattr(self, f"_{_PAGING[call.name]}")(call.args)
            else:
                conditions.append(self._condition(call, "$", ()))
        return ListingQuery(where=_joined(conditions, "&&") if conditions else None, **page_options)

    # ------------------------------------------------------------ the page
    def _limit(self, args: list[OperatorCall | str]) -> dict[str, Any]:
        numbers = [_decoded(arg) for arg in args]
        integers = [int(number) for number in numbers if re.fullmatch(r"[0-9]{1,9}", number)]
        if not 1 <= len(numbers) <= 2 or len(integers) != len(numbers):
            raise Refused("limit: one or two whole numbers", "rql")
        return {"limit": min(integers[0], PAGE_MAX_OBJECTS), "offset": integers[1] if len(integers) > 1 else 0}

    def _sort(self, args: list[OperatorCall | str]) -> dict[str, Any]:
        if not 1 <= len(args) <= _MAX_SORT_FIELDS:
            raise Refused(f"sort: one to {_MAX_SORT_FIELDS} fields", "rql")
        # A + may have been decoded as a space.
        names = [_decoded(arg).strip() for arg in args]
        return {"sort": tuple((self._path(name.lstrip("+-")), name.startswith("-")) for name in names)}

    def _select(self, args: list[OperatorCall | str]) -> dict[str, Any]:
        return {"select": tuple(self._visible_path(_decoded(arg)) for arg in args)}

    def _count(self, _args: list[OperatorCall | str]) -> dict[str, Any]:
        return {"count": False}

    # ------------------------------------------------------- the conditions
    def _condition(self, call: OperatorCall | str, root: str, above: FieldPath) -> str:
        """Return the jsonpath predicate of a call; ``root`` is the jsonpath of the field ``above``, or "$"."""
        if isinstance(call, str):
            raise Refused(f"{call!r} is no condition", "rql")
        if call.name in ("and", "or"):
            inner = [self._condition(arg, root, above) for arg in call.args]
            return _joined(inner, "&&" if call.name == "and" else "||")
        if call.name in _PAGING:
            raise Refused(f"{call.name}: only beside conditions or in an and(…) with them, not within one", "rql")
        operator = _OPERATORS.get(call.name)
        if operator is None:
            raise Refused(f"{call.name}: no operator of ours; there are {', '.join(('and', 'or', *_OPERATORS))}", "rql")
        if not call.args:
            raise Refused(f"{call.name}: which field?", "rql")
        path = self._path(_decoded(call.args[0]), above)
        return operator(self, _locations(root, path[len(above) :]), path, call)

    def _equal(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        if len(call.args) != 2:
            raise Refused(f"{call.name}: a field and a value", "rql")
        return self._one_of(locations, path, call.args[1:])

    def _not_equal(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        return f"!({self._equal(locations, path, call)})"

    def _in(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        # The standard writes in(field,(a,b)), the SDK in(field,a,b).
        values = [inner for arg in call.args[1:] for inner in (arg.args if isinstance(arg, OperatorCall) else [arg])]
        return self._one_of(locations, path, values)

    def _not_in(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        return f"!({self._in(locations, path, call)})"

    def _one_of(self, locations: _FieldLocations, path: FieldPath, args: list[OperatorCall | str]) -> str:
        literals = [literal for arg in args for literal in self._literals(path, _decoded(arg))]
        if not literals:
            raise Refused("no value to compare with", "rql")
        return _exists(locations, " || ".join(f"@ == {literal}" for literal in literals))

    def _ordered(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        if len(call.args) != 2:
            raise Refused(f"{call.name}: a field and a value", "rql")
        sign = _SIGN_BY_COMPARISON[call.name]
        literals = self._literals(path, _decoded(call.args[1]))
        return _exists(locations, " || ".join(f"@ {sign} {literal}" for literal in literals))

    def _like(self, locations: _FieldLocations, _path: FieldPath, call: OperatorCall) -> str:
        if len(call.args) != 2:
            raise Refused("like: a field and a text", "rql")
        return _exists(locations, f'@ like_regex {json.dumps(_decoded(call.args[1]))} flag "iq"')

    def _contains(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        if len(call.args) == 1:
            return _exists(locations)
        if all(isinstance(arg, str) for arg in call.args[1:]):
            return self._one_of(locations, path, call.args[1:])
        inner = [self._condition(arg, "@", path) for arg in call.args[1:]]
        return _exists(locations, _joined(inner, "&&"))

    def _excludes(self, locations: _FieldLocations, path: FieldPath, call: OperatorCall) -> str:
        return f"!({self._contains(locations, path, call)})"

    # ------------------------------------------------------ fields and values
    def _path(self, name: str, above: FieldPath = ()) -> FieldPath:
        """Return the path of a field to filter or sort by. Raise Refused, HiddenRqlField."""
        path = self._visible_path(name, above)
        if path[0] in self._fields.hidden:
            raise HiddenRqlField(path[0], "rql")
        return path

    def _visible_path(self, name: str, above: FieldPath = ()) -> FieldPath:
        """Return a field's path. Raise Refused for an unknown field.

        Names are changed from the SDK's camelCase, but not below ``open`` fields, where they are the caller's own.
        """
        steps = (*above, *name.split("."))
        if len(steps) > MAX_PATH_STEPS or sum(map(_is_index, steps)) > MAX_PATH_INDEXES:
            raise Refused(
                f"a field of more than {MAX_PATH_STEPS} steps, or of more than {MAX_PATH_INDEXES} indexes", "rql"
            )
        fields = self._fields
        first = _snake_case(steps[0])
        path = (first, *steps[1:]) if first in fields.open else tuple(map(_snake_case, steps))
        field_names = fields.texts | fields.numbers | fields.times | fields.open
        prefix = ".".join(_without_indexes(path)) + "."
        if first not in fields.open and not any((field_name + ".").startswith(prefix) for field_name in field_names):
            raise Refused(f"{name}: no field of ours; there are {', '.join(sorted(field_names))}", "rql")
        if not all(_NAME.fullmatch(step) for step in path):
            raise Refused(f"{name}: not a field's name", "rql")
        return path

    def _literals(self, path: FieldPath, text: str) -> list[str]:
        """Return a value as jsonpath literals; two where the field may be a number or a text."""
        field_name = ".".join(_without_indexes(path))
        if field_name in self._fields.texts:
            return [_literal(re.sub(r"^string:", "", text))]
        if field_name in self._fields.times:
            return [_literal(_milliseconds(text))]
        value = _typed_value(text)
        if field_name in self._fields.numbers:
            if isinstance(value, str):
                raise Refused(f"{field_name}: {value!r} is no number", "rql")
            return [_literal(value)]
        values: list[RqlValue] = [value] if isinstance(value, str) or ":" in text else [value, text]
        return list(dict.fromkeys(map(_literal, values)))


_OperatorMethod = Callable[[_JsonpathBuilder, _FieldLocations, FieldPath, OperatorCall], str]
_OPERATORS: Final[dict[str, _OperatorMethod]] = {
    "eq": _JsonpathBuilder._equal,
    "ne": _JsonpathBuilder._not_equal,
    "in": _JsonpathBuilder._in,
    "out": _JsonpathBuilder._not_in,
    **dict.fromkeys(_SIGN_BY_COMPARISON, _JsonpathBuilder._ordered),
    "like": _JsonpathBuilder._like,
    "contains": _JsonpathBuilder._contains,
    "excludes": _JsonpathBuilder._excludes,
}


def _joined(conditions: Collection[str], sign: str) -> str:
    """Return the conditions joined by ``&&`` or ``||``. Raise Refused for none."""
    if not conditions:
        raise Refused("and, or: of what?", "rql")
    return "(" + f" {sign} ".join(conditions) + ")"


def _flattened(calls: Iterable[OperatorCall | str]) -> Iterator[OperatorCall]:
    """Yield the calls with those inside and(…) in its place, where operators for the page are allowed, too."""
    for call in calls:
        if isinstance(call, str):
            raise Refused(f"{call!r} is no condition", "rql")
        if call.name == "and" and call.args:
            yield from _flattened(call.args)
        else:
            yield call


def _locations(root: str, steps: FieldPath) -> _FieldLocations:
    """Return where a field may be: a number in its path is an index of a list, or a name in an object."""
    locations: list[tuple[tuple[str, ...], str]] = [((), root)]
    for step in steps:
        # Of a value that is no list, jsonpath's [0] is the value itself, hence the condition on the type.
        in_lists = (
            [((*conditions, f'{path}.type() == "array"'), f"{path}[{step}]") for conditions, path in locations]
            if _is_index(step)
            else []
        )
        locations = in_lists + [(conditions, f"{path}.{json.dumps(step)}") for conditions, path in locations]
    return locations


def _exists(locations: _FieldLocations, test: str = "") -> str:
    """Return the predicate that there is a value at one of the locations, and that it passes the test."""
    filter_text = f" ? ({test})" if test else ""
    predicates = [" && ".join((*conditions, f"exists({path}{filter_text})")) for conditions, path in locations]
    if len(predicates) == 1:
        return predicates[0]
    return "(" + " || ".join(f"({predicate})" for predicate in predicates) + ")"


def _is_index(step: str) -> bool:
    return _INDEX.fullmatch(step) is not None


def _without_indexes(path: FieldPath) -> FieldPath:
    """Return the path without its indexes, by which `RqlFields` names the field."""
    return tuple(step for step in path if not _is_index(step))


def _decoded(arg: OperatorCall | str) -> str:
    """Return a value without its second percent-encoding. Raise Refused for a call, or for bytes that are no text."""
    if isinstance(arg, OperatorCall):
        raise Refused(f"{arg.name}(…) where a value is expected", "rql")
    text = unquote(arg)
    if "\0" in text or "\ufffd" in text:
        raise Refused("not UTF-8, or with a NUL", "rql")
    return text


def _typed_value(text: str) -> RqlValue:
    """Return the value of a text such as ``5``, ``true`` or ``string:5``. Raise Refused."""
    kind, value = match.groups() if (match := _TYPED_VALUE.fullmatch(text)) else ("auto", text)
    if kind == "string":
        return value
    if kind in ("date", "isodate", "epoch"):
        return _milliseconds(value)
    if kind == "boolean":
        return bool(value == "true")
    if kind == "auto" and value in _LITERAL_WORDS:
        return _LITERAL_WORDS[value]
    if _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    if kind == "number":
        raise Refused(f"{value!r} is no number", "rql")
    return value


def _milliseconds(text: str) -> RqlValue:
    """Return the time that a text names: a number of milliseconds, or an ISO date, in UTC if it has no zone."""
    text = re.sub(r"^(auto|number|date|isodate|epoch):", "", text)
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"{text!r} is no time: milliseconds, or an ISO date", "rql") from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _literal(value: RqlValue) -> str:
    return json.dumps(value)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda capital: "_" + capital[1].lower(), name)
