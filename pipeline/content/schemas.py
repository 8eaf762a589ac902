"""JSON schemas of templates' variables: which are taken, and values checked against them in bounded time. Pure.

A tenant writes both the schema and the values, so neither may cost more than its size: no keyword that
runs a pattern or fetches a document, and a limit on the product of the two sizes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema
import referencing

from pipeline.errors import Refused

MAX_LIST_MEMBERS: Final = 1_000
"""Names in `required` and values in `enum`: both are compared with one another or with each value."""
MAX_COMPARISONS: Final = 2_000_000
"""Members of the values times the comparisons that one of them may need."""
MAX_DEPTH: Final = 20
_TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_KEYWORDS: Final = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "enum", "const", "items", "title", "description"),
        *("default", "examples", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "$schema"),
    }
)
"""No `pattern`, `patternProperties` or `format`, which run regular expressions on values, and no `uniqueItems`, which
compares each with each; no `$ref`, which asks elsewhere, and nothing that applies several schemas to one value."""


def declared_variables(schema: Any) -> frozenset[str] | None:
    """Return the variables that a schema declares; None where it is open, or null. Raises Refused with the place."""
    if schema is None:
        return None
    _check_schema(schema, "schema", 0)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise Refused(error.message[:200], ".".join(("schema", *map(str, error.absolute_path)))) from None
    properties = schema.get("properties")
    return None if properties is None or schema.get("additionalProperties") else frozenset(properties)


def check_values(schema: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise Refused for the first value that doesn't fit, and for more values than can be checked."""
    if _members(values) * max(map(_comparisons, _schemas(schema))) > MAX_COMPARISONS:
        raise Refused("too many values for a schema of this size", "variables")
    # An empty registry: a schema that refers elsewhere makes nobody fetch anything.
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    error = next(iter(validator.iter_errors(values)), None)
    if error is not None:
        raise Refused(error.message[:200], ".".join(("variables", *map(str, error.absolute_path))))


def _check_schema(schema: Any, where: str, depth: int) -> None:
    if isinstance(schema, bool) and depth:
        return
    _refuse(None if isinstance(schema, dict) else "not a JSON schema", where)
    _refuse("nested too deeply" if depth > MAX_DEPTH else None, where)
    for keyword in schema:
        _refuse(None if keyword in _KEYWORDS else f"{keyword}: not a keyword that is taken here", where)
    _check_lists(schema, where)
    properties = schema.get("properties", {})
    _refuse(None if isinstance(properties, dict) else "not an object", f"{where}.properties")
    for name, inner in properties.items():
        _check_schema(inner, f"{where}.properties.{name}", depth + 1)
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            _check_schema(schema[keyword], f"{where}.{keyword}", depth + 1)


def _check_lists(schema: Mapping[str, Any], where: str) -> None:
    # Before the metaschema is asked, which compares the members of such lists each with each.
    types = schema.get("type", "string")
    known = {types} if isinstance(types, str) else set(filter(_is_text, types)) if isinstance(types, list) else set()
    fits = known <= _TYPES and len(known) == (1 if isinstance(types, str) else len(types))
    _refuse(None if fits else "not a type, or a list of different types", f"{where}.type")
    names = schema.get("required", [])
    _refuse(None if isinstance(names, list) and all(map(_is_text, names)) else "not names", f"{where}.required")
    _refuse("a name is there twice" if len(set(names)) < len(names) else None, f"{where}.required")
    for keyword in ("required", "enum"):
        members = schema.get(keyword, [])
        many = isinstance(members, list) and len(members) > MAX_LIST_MEMBERS
        _refuse(f"{len(members)} members; at most {MAX_LIST_MEMBERS}" if many else None, f"{where}.{keyword}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [schema]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += [*found.get("properties", {}).values(), found.get("items"), found.get("additionalProperties")]


def _comparisons(schema: Mapping[str, Any]) -> int:
    """Return how many comparisons a value may need that meets this schema."""
    lists = sum(len(schema.get(keyword, ())) for keyword in ("properties", "required"))
    return len(schema) + lists + _members([schema.get("enum"), schema.get("const")])


def _members(value: Any) -> int:
    """Return the number of values in a value, itself included."""
    number, waiting = 0, [value]
    while waiting:
        found = waiting.pop()
        number += 1
        if isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list | tuple):
            waiting += found
    return number


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise Refused(problem, where)
