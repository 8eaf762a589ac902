"""Queries for listings of JSON objects: filter, order, page and selected fields. Pure; the `/mail` routes use it."""

from typing import Any

import msgspec

FieldPath = tuple[str, ...]
"""The names of the nested fields that lead to a field."""
FieldSelection = dict[str, "FieldSelection | None"]
"""The selected fields of an object: None selects a whole field, a dict some fields of it."""


class ListingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing."""

    where: str | None = None
    """A predicate in PostgreSQL's jsonpath; None selects all objects."""
    sort: tuple[tuple[FieldPath, bool], ...] = ()
    """At most three paths, each with True for descending order."""
    select: tuple[FieldPath, ...] = ()
    """Fields to return beside the id; empty returns whole objects."""
    limit: int = 20
    offset: int = 0
    count: bool = True


def field_selection(*paths: FieldPath) -> FieldSelection:
    """Return the selection of all paths; a field that one path selects as a whole stays whole."""
    tree: FieldSelection = {}
    for path in paths:
        node: FieldSelection | None = tree
        for name in path[:-1]:
            node = None if node is None else node.setdefault(name, {})
        if node is not None:
            node[path[-1]] = None
    return tree


def selected_fields(value: Any, selection: FieldSelection) -> Any:
    """Return the selected fields of an object; for a list, those of each object in it."""
    if isinstance(value, list):
        return [selected_fields(each, selection) for each in value if isinstance(each, dict | list)]
    selected: dict[str, Any] = {}
    for name, inner in selection.items():
        if name not in value:
            continue
        if inner is None:
            selected[name] = value[name]
        elif isinstance(value[name], dict | list):
            selected[name] = selected_fields(value[name], inner)
    return selected
