"""Measure changes and rows projected per second. Run by `python -m bench`.

The peer is a plain COPY of the same rows into tables with the same indexes.
"""

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from bench import material
from bench.costs import pace_with_costs
from bench.figures import Cost, Rate
from bench.house import World
from bench.log import produce
from pipeline.runtime.ports import LogEntry
from topics.registry import EMAIL_CHANGES

TABLES: Sequence[tuple[str, str]] = (
    ("projections", "history"),
    ("projections", "versions"),
    ("projections", "timeline"),
    ("jobs", "jobs"),
)


async def run(world: World) -> tuple[list[Rate], list[Cost]]:
    """Measure a projector that starts when all changes are on the log already."""
    emails = world.size.project
    made = [change for number in range(emails) for change in material.changes(number)]
    # The first change of each email, then the second …, so that a batch has mostly different emails.
    ordered = [made[start] for part in range(4) for start in range(part, len(made), 4)]
    await produce(world.settings, (LogEntry(EMAIL_CHANGES, change.email_id, change) for change in ordered))
    url = world.settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def projected() -> int:
            row = await (
                await connection.execute("select coalesce(sum(next_offset), 0) from projections.next_offsets")
            ).fetchone()
            return int(row[0]) if row else 0

        async with world.roles("project"):
            changes, costs = await pace_with_costs(
                projected, len(made), world.size.within, stage="project", unit="change"
            )
        counts = [await _count(connection, *table) for table in TABLES]
        copied = await _copy(connection)
    rows = sum(counts)
    per_row = rows / len(made)
    rates = [
        Rate("project", "changes", changes, "COPY of the rows they became", copied / per_row),
        Rate("project", "rows", changes * per_row, "COPY of the same rows", copied),
    ]
    return rates, costs


async def _count(connection: "psycopg.AsyncConnection[Any]", schema: str, table: str) -> int:
    found = await connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(schema, table)))
    row = await found.fetchone()
    return int(row[0]) if row else 0


async def _copy(connection: "psycopg.AsyncConnection[Any]") -> float:
    """Return the rows per second of COPY into empty tables with the same columns and indexes."""
    rows, seconds = 0, 0.0
    for schema, table in TABLES:
        source, copy = sql.Identifier(schema, table), sql.Identifier(f"copy_{table}")
        await connection.execute(sql.SQL("create table {} (like {} including all)").format(copy, source))
        async with connection.cursor().copy(sql.SQL("copy {} to stdout (format binary)").format(source)) as out:
            data = [bytes(piece) async for piece in out]
        began = time.perf_counter()
        async with connection.cursor().copy(sql.SQL("copy {} from stdin (format binary)").format(copy)) as into:
            for piece in data:
                await into.write(piece)
        seconds += time.perf_counter() - began
        rows += await _count(connection, schema, table)
    return rows / seconds
