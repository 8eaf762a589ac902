"""The endpoints of each HTTP API, from the gateway's OpenAPI document."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.architecture.reference.gateway import openapi
from tests.architecture.reference.markdown import paragraphs, table

TAGS: Final = {
    "fasttrack": "Fast Track",
    "email_v1": "/v1/Email/",
    "extrahorizon": "Extra Horizon",
    "freshmail": "FreshMail",
    "history": "history",
    "exports": "exports",
    "statistics": "statistics",
    "templates": "templates",
    "suppressions": "suppressions",
    "tracking": "tracking",
    "webhooks": "providers",
    "operation": "operation",
}
"""Page -> its tag in OpenAPI."""
_HIDDEN: Final = {"422"}
"""The framework declares it everywhere; we answer 400 instead."""
_DEEPEST: Final = 4


def part_of(tag: str) -> Callable[[], str]:
    return lambda: part(tag)


def part(tag: str) -> str:
    found = [
        _operation(method, path, operation)
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
        if tag in operation.get("tags", ())
    ]
    return "## Endpoints\n\n" + "\n".join(found)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    schemes = [next(iter(choice)) for choice in operation.get("security", ())]
    names = {"ApiKey": "`X-Api-Key`", "Bearer": "`Authorization: Bearer`"}
    sections = [f"### `{method.upper()} {path}`\n", operation.get("summary", "") + ".\n"]
    if operation.get("description"):
        sections.append(paragraphs(operation["description"]) + "\n")
    if schemes:
        scopes = " and ".join(f"`{scope}`" for scope in operation["security"][0][schemes[0]])
        sections.append(f"Authentication: {' or '.join(names[scheme] for scheme in schemes)}. Scope: {scopes}.\n")
    sections += _parameters(operation.get("parameters", ()))
    sections += _body("Request body", operation.get("requestBody", {}))
    answers = {status: answer for status, answer in operation["responses"].items() if status not in _HIDDEN}
    rows = [(status, answer.get("description", "")) for status, answer in sorted(answers.items())]
    sections.append(table(("status", "meaning"), rows))
    for status, answer in sorted(answers.items()):
        if status.startswith("2"):
            sections += _body(f"Body of a {status}", answer)
    return "\n".join(sections)


def _parameters(parameters: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            f"`{one['name']}`",
            one["in"],
            type_of(one.get("schema", {})),
            "yes" if one.get("required") else "",
            one.get("description", "") or one.get("schema", {}).get("description", ""),
        )
        for one in parameters
    ]
    return [table(("parameter", "in", "type", "required", "meaning"), rows)] if rows else []


def _body(title: str, holder: dict[str, Any]) -> list[str]:
    sections = []
    for media, content in holder.get("content", {}).items():
        schema = content.get("schema", {})
        rows = list(_fields(schema, "", 0))
        kind = type_of(schema)
        sections.append(f"{title}, `{media}`{f': {kind}' if kind else ''}.\n")
        if rows:
            sections.append(table(("field", "type", "required", "meaning"), rows))
    return sections


def _fields(schema: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str, str, str]]:
    shape = resolved(schema)
    for choice in shape.get("anyOf", []) + shape.get("oneOf", []) + shape.get("allOf", []):
        yield from _fields(choice, prefix, depth)
    if "items" in shape:
        yield from _fields(shape["items"], f"{prefix}[]" if prefix else "[]", depth)
    required = set(shape.get("required", ()))
    for name, field in shape.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        meaning = field.get("description", "")
        yield f"`{path}`", type_of(field), "yes" if name in required else "", meaning
        if depth < _DEEPEST:
            yield from _fields(field, path, depth + 1)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    if not reference:
        return schema
    found: dict[str, Any] = openapi()["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def type_of(schema: dict[str, Any]) -> str:
    shape = resolved(schema)
    if "enum" in shape:
        return ", ".join(f"`{value}`" for value in shape["enum"])
    choices = shape.get("anyOf", []) + shape.get("oneOf", []) + shape.get("allOf", [])
    if choices:
        return " or ".join(dict.fromkeys(kind for choice in choices if (kind := type_of(choice))))
    kind = shape.get("type", "")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"array of {type_of(shape.get('items', {})) or 'values'}"
    return str(kind)
