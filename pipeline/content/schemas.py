"""Check JSON schemas of templates' variables, and values against them, in bounded time. Pure; `templates` calls it.

Tenants write both the schema and the values. To bound the time, keywords that run patterns or fetch documents are
refused, and the product of the sizes of schema and values is limited.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema
import referencing

from pipeline.errors import Refused

MAX_LIST_MEMBERS: Final = 1_000
"""Names in `required` and values in `enum`, which are compared with one another or with each value."""
MAX_COMPARISONS: Final = 2_000_000
"""The number of values times the comparisons that one of them may need."""
MAX_DEPTH: Final = 20
_TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_KEYWORDS: Final = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "enum", "const", "items", "title", "description"),
        *("default", "examples", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "$schema"),
    }
)
"""The allowed keywords. Not allowed: `pattern`, `patternProperties` and `format`, which run regular expressions on
values; `uniqueItems`, which compares all pairs; `$ref`, which fetches documents; and all that apply several schemas to
one value."""


def declared_variables(schema: Any) -> frozenset[str] | None:
    """Return the variables that a schema declares; None for null or a schema that allows others. Raise Refused."""
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
    """Raise Refused for the first value that the schema doesn't allow, and for more values than can be checked."""
    if _count_values(values) * max(map(_comparisons, _schemas(schema))) > MAX_COMPARISONS:
        raise Refused("too many values for a schema of this size", "variables")
    # With an empty registry no reference to another document is fetched.
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    error = next(iter(validator.iter_errors(values)), None)
    if error is not None:
        raise Refused(error.message[:200], ".".join(("variables", *map(str, error.absolute_path))))


def _check_schema(schema: Any, where: str, depth: int) -> None:
    """Raise Refused for a schema that isn't an object, has other keywords, or is nested too deeply."""
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
    """Raise Refused for lists of keywords that are malformed or too long.

    This comes before the validation by the metaschema, which compares all pairs of their members.
    """
    types = schema.get("type", "string")
    type_names = (
        {types} if isinstance(types, str) else set(filter(_is_text, types)) if isinstance(types, list) else set()
    )
    is_valid = type_names <= _TYPES and len(type_names) == (1 if isinstance(types, str) else len(types))
    _refuse(None if is_valid else "not a type, or a list of different types", f"{where}.type")
    names = schema.get("required", [])
    _refuse(None if isinstance(names, list) and all(map(_is_text, names)) else "not names", f"{where}.required")
    _refuse("a name is there twice" if len(set(names)) < len(names) else None, f"{where}.required")
    for keyword in ("required", "enum"):
        members = schema.get(keyword, [])
        too_many = isinstance(members, list) and len(members) > MAX_LIST_MEMBERS
        _refuse(f"{len(members)} members; at most {MAX_LIST_MEMBERS}" if too_many else None, f"{where}.{keyword}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and all schemas within it."""
    pending = [schema]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending += current.get("properties", {}).values()
            pending += [current.get("items"), current.get("additionalProperties")]


def _comparisons(schema: Mapping[str, Any]) -> int:
    """Return the number of comparisons that validating one value against this schema may need."""
    lists = sum(len(schema.get(keyword, ())) for keyword in ("properties", "required"))
    return len(schema) + lists + _count_values([schema.get("enum"), schema.get("const")])


def _count_values(value: Any) -> int:
    """Return the number of values within a value, including itself."""
    count, pending = 0, [value]
    while pending:
        current = pending.pop()
        count += 1
        if isinstance(current, dict):
            pending += current.values()
        elif isinstance(current, list | tuple):
            pending += current
    return count


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise Refused(problem, where)
