"""What is asked of a listing of objects: which, in what order, which part of them. Pure."""

import msgspec

Path = tuple[str, ...]
"""A field, step by step."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One page's worth."""

    where: str | None = None
    """A predicate in PostgreSQL's jsonpath; None: all."""
    sort: tuple[tuple[Path, bool], ...] = ()
    """At most three paths, each with whether it descends."""
    select: tuple[Path, ...] = ()
    """Nothing but these, and the id; empty: everything."""
    limit: int = 20
    offset: int = 0
    count: bool = True
