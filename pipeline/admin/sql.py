"""Execution of this package's named queries; violated constraints become Refused."""

from pathlib import Path
from typing import Any

import psycopg

from pipeline.errors import Refused
from pipeline.runtime.postgres.database import Pool
from projections.sql import SqlQueries

SQL = SqlQueries(Path(__file__).with_name("queries.sql"))


async def fetch_rows(pool: Pool, name: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    async with pool.connection() as connection:
        return await (await connection.execute(SQL[name], values or None)).fetchall()


async def fetch_row(pool: Pool, name: str, *values: Any) -> tuple[Any, ...] | None:
    """Return a query's first row, or None."""
    async with pool.connection() as connection:
        row: tuple[Any, ...] | None = await (await connection.execute(SQL[name], values)).fetchone()
        return row


async def execute(pool: Pool, name: str, *values: Any, **named: Any) -> int:
    """Execute a statement with positional or named values and return how many rows it changed.

    Raise Refused if it violates a constraint.
    """
    try:
        async with pool.connection() as connection:
            return (await connection.execute(SQL[name], named or values)).rowcount
    except psycopg.errors.ForeignKeyViolation as error:
        raise Refused(f"it refers to something that doesn't exist: {error.diag.message_detail}") from error
    except psycopg.errors.CheckViolation as error:
        raise Refused(f"not a value that can be taken: {error.diag.constraint_name}") from error
