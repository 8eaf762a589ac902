"""Topics and the records on them, from the registry and the records' own source."""

import ast
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec

from tests.architecture.reference.markdown import paragraphs, prose, table
from topics.registry import TOPICS, Topic

_WORDS = {
    "str": "text",
    "int": "integer",
    "bool": "boolean",
    "bytes": "bytes",
    "None": "null",
    "Millis": "milliseconds",
    "EmailId": "UUID",
    "msgspec.Raw": "JSON, verbatim",
}


def part() -> str:
    rows = [_topic_row(topic) for topic in TOPICS]
    sections = ["## Topics\n", table(("topic", "key", "records", "wire", "partitions", "cleanup", "kept"), rows)]
    sections.append("## Records\n")
    records = list(dict.fromkeys(record for topic in TOPICS for record in _records(topic)))
    sections += [text for record in records for text in _described(record, f"`{tag_of(record)}`")]
    sections.append("## Parts of records\n")
    sections += [text for found in _parts(records) for text in _described(found, _name(found))]
    return "\n".join(sections)


def _topic_row(topic: Topic) -> tuple[str, ...]:
    records = ", ".join(f"`{tag_of(record)}`" for record in _records(topic))
    partitions = "1" if topic.has_one_partition else "`MAILFOLD_PARTITIONS`"
    return f"`{topic.name}`", topic.key, records, topic.wire, partitions, topic.cleanup, topic.retention_text


def _records(topic: Topic) -> tuple[Any, ...]:
    return typing.get_args(topic.value) or (topic.value,)


def tag_of(record: Any) -> str:
    return str(record.__struct_config__.tag)


def _name(part_of_record: Any) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part_of_record.__name__).lower()


def _described(record: Any, title: str) -> Iterator[str]:
    array = " Written as an array, in this order." if record.__struct_config__.array_like else ""
    yield f"### {title}\n\n{paragraphs(inspect.getdoc(record) or '')}{array}\n"
    rows = [
        (f"`{name}`", _type(node.annotation, owner), _default(record, name), prose(meaning))
        for name, node, meaning, owner in _fields(record)
    ]
    yield table(("field", "type", "default", "meaning"), rows)


def _fields(record: Any) -> Iterator[tuple[str, ast.AnnAssign, str, Any]]:
    """Return name, source, the text below it, and the class that declares it."""
    for owner in reversed(record.__mro__):
        if not issubclass(owner, msgspec.Struct) or not owner.__module__.startswith("topics."):
            continue
        body = typing.cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, node, _text(after), owner


def _text(node: ast.stmt | None) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return str(typing.cast("Any", node).value.value) if is_text else ""


def _default(record: Any, name: str) -> str:
    field = next(field for field in msgspec.structs.fields(record) if field.name == name)
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, msgspec.Raw):
        value = bytes(value).decode()
    return "empty" if value in ("", (), {}) else "null" if value is None else f"`{value}`"


def _type(node: ast.expr, owner: Any) -> str:
    match node:
        case ast.BinOp():
            return f"{_type(node.left, owner)} or {_type(node.right, owner)}"
        case ast.Subscript(slice=ast.Tuple(elts=[one, ast.Constant()])):
            return f"list of {_type(one, owner)}"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, value])):
            return f"object: {_type(key, owner)} → {_type(value, owner)}"
        case ast.Subscript(slice=ast.Tuple(elts=many)):
            return f"({', '.join(_type(one, owner) for one in many)})"
        case ast.Constant(value=None):
            return "null"
    source = ast.unparse(node)
    return _WORDS.get(source) or _named(eval(source, vars(sys.modules[owner.__module__])))


def _named(found: Any) -> str:
    if isinstance(found, type) and issubclass(found, Enum):
        return ", ".join(f"`{member.value}`" for member in found)
    if typing.get_origin(found) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(found))
    if isinstance(found, type) and issubclass(found, msgspec.Struct):
        tag = tag_of(found)
        title = f"`{tag}`" if tag != "None" else _name(found)
        anchor = re.sub(r"[^\w -]", "", title).replace(" ", "-")
        return f"[{title}](#{anchor})"
    return " or ".join(_named(one) for one in typing.get_args(found)) or str(found)


def _parts(records: list[Any]) -> list[Any]:
    """Return the structures inside the records that are no records themselves, in order of first use."""
    waiting, found = list(records), []
    while waiting:
        owner = waiting.pop(0)
        for hint in typing.get_type_hints(owner).values():
            for inner in _structures(hint):
                if inner not in found and inner not in records:
                    found.append(inner)
                    waiting.append(inner)
    return found


def _structures(hint: Any) -> Iterator[Any]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for inner in typing.get_args(hint):
        yield from _structures(inner)
