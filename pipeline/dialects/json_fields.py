"""Find every field of a JSON object that is missing or of a wrong type; a decoder stops at the first. Pure."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from pipeline.dialects.raw_json import FIELD_MISSING, refusal_from_msgspec
from pipeline.errors import Refused


def field_problems(kind: type[msgspec.Struct], value: Any, where: str = "") -> Iterator[Refused]:
    """Yield what keeps an object from being of a kind, field by field, in objects and lists of objects within it, too.

    ``value`` is JSON as Python has it, already held to a size; ``where`` is its path.
    """
    if not isinstance(value, dict):
        yield from _mismatch(kind, value, where)
        return
    for field in msgspec.structs.fields(kind):
        place = f"{where}.{field.encode_name}"
        if field.encode_name in value:
            yield from _field_misfits(field.type, value[field.encode_name], place)
        elif field.required:
            yield Refused(FIELD_MISSING, place)


def _field_misfits(kind: Any, value: Any, where: str) -> Iterator[Refused]:
    inner, listed = _inner(kind)
    if inner is not None and listed and isinstance(value, list):
        for nth, item in enumerate(value):
            yield from field_problems(inner, item, f"{where}[{nth}]")
    elif inner is not None and not listed and isinstance(value, dict):
        yield from field_problems(inner, value, where)
    else:
        yield from _mismatch(kind, value, where)


def _mismatch(kind: Any, value: Any, where: str) -> Iterator[Refused]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield refusal_from_msgspec(str(error), where)


def _inner(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """Return the struct that a field's type is, or lists, and whether it lists it; None for other types."""
    for option in (kind, *get_args(kind)):
        if _is_struct(option):
            return option, False
        if get_origin(option) is list and _is_struct(item := get_args(option)[0]):
            return item, True
    return None, False


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
