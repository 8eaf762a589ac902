"""What is asked of a listing of objects: which, in what order, which part of them. Pure."""

from typing import Any

import msgspec

FieldPath = tuple[str, ...]
"""A field, step by step."""
FieldSelection = dict[str, "FieldSelection | None"]
"""The fields of an object that are wanted: as a whole (None), or some of theirs."""


class ListingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page's worth."""

    where: str | None = None
    """A predicate in PostgreSQL's jsonpath; None: all."""
    sort: tuple[tuple[FieldPath, bool], ...] = ()
    """At most three paths, each with whether it descends."""
    select: tuple[FieldPath, ...] = ()
    """Nothing but these, and the id; empty: everything."""
    limit: int = 20
    offset: int = 0
    count: bool = True


def field_selection(*paths: FieldPath) -> FieldSelection:
    """Return what the paths name; a field that is wanted as a whole stays so."""
    tree: FieldSelection = {}
    for path in paths:
        here: FieldSelection | None = tree
        for step in path[:-1]:
            here = None if here is None else here.setdefault(step, {})
        if here is not None:
            here[path[-1]] = None
    return tree


def selected_fields(value: Any, wanted: FieldSelection) -> Any:
    """Return the wanted parts of an object; of a list, those of each object in it."""
    if isinstance(value, list):
        return [selected_fields(each, wanted) for each in value if isinstance(each, dict | list)]
    found: dict[str, Any] = {}
    for step, inner in wanted.items():
        if step not in value:
            continue
        if inner is None:
            found[step] = value[step]
        elif isinstance(value[step], dict | list):
            found[step] = selected_fields(value[step], inner)
    return found
