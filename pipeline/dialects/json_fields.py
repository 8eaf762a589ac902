"""Find all fields of a JSON object that are missing or of a wrong type, where a decoder stops at the first. Pure.

The FreshMail dialect calls it for requests that its decoder refused.
"""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from pipeline.dialects.raw_json import FIELD_MISSING, refusal_from_msgspec
from pipeline.errors import Refused


def field_problems(kind: type[msgspec.Struct], value: Any, where: str = "") -> Iterator[Refused]:
    """Yield the problems of a value that should be of a struct type, with those of nested objects and lists of objects.

    ``value``: decoded JSON, whose size the caller has limited; ``where``: its path.
    """
    if not isinstance(value, dict):
        yield from _type_problem(kind, value, where)
        return
    for field in msgspec.structs.fields(kind):
        path = f"{where}.{field.encode_name}"
        if field.encode_name in value:
            yield from _field_value_problems(field.type, value[field.encode_name], path)
        elif field.required:
            yield Refused(FIELD_MISSING, path)


def _field_value_problems(kind: Any, value: Any, where: str) -> Iterator[Refused]:
    inner, is_list = _inner_struct(kind)
    if inner is not None and is_list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from field_problems(inner, item, f"{where}[{index}]")
    elif inner is not None and not is_list and isinstance(value, dict):
        yield from field_problems(inner, value, where)
    else:
        yield from _type_problem(kind, value, where)


def _type_problem(kind: Any, value: Any, where: str) -> Iterator[Refused]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield refusal_from_msgspec(str(error), where)


def _inner_struct(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """Return the struct that a field's type is or is a list of, and whether it is a list; None for other types."""
    for option in (kind, *get_args(kind)):
        if _is_struct(option):
            return option, False
        if get_origin(option) is list and _is_struct(item := get_args(option)[0]):
            return item, True
    return None, False


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
