"""Loads named SQL queries from `.sql` files: ``-- name: x`` begins a query, the comment lines after it explain it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, LiteralString, cast

_NAME = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)


class SqlQueries:
    """The queries of one file, by name: ``queries["claim"]``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        parts = _NAME.split(path.read_text(encoding="utf-8"))
        self._texts = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}

    def __getitem__(self, name: str) -> LiteralString:
        """Return a query's text. It is part of our package, so it may be typed as LiteralString."""
        return cast("LiteralString", self._texts[name])


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows, of which there is at least one, as a list per column: an array for each of a query's parameters."""
    return {column: [row[column] for row in rows] for column in rows[0]}
