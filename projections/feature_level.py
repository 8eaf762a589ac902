"""The feature level: what processes may write to the log, because every process can read it.

Readers are upgraded first, writers later. A version that adds something which the versions before cannot read, or may
not lose, raises :data:`NEWEST_LEVEL` and writes it only where :func:`read_level` returns that level. An operator raises
the database's level by `mailfold upgrade finish`, once no older process runs. A process of a level below it refuses to
start: it might have to read what it does not know. What belongs to each level is listed in docs/how-to/upgrade.md.
"""

from pathlib import Path
from typing import Any, Final

import psycopg

from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("feature_level.sql"))
FIRST_LEVEL: Final = 1
COMPRESSED_LOG_LEVEL: Final = 2
"""From this level on, batches on the log are compressed by zstd."""
NEWEST_LEVEL: Final = 2
"""The highest level that this version can read and write."""

Connection = psycopg.AsyncConnection[Any]


async def read_level(connection: Connection) -> int:
    """Return the level up to which processes may write."""
    row = await (await connection.execute(SQL["level"])).fetchone()
    return FIRST_LEVEL if row is None else int(row[0])


async def raise_level(connection: Connection) -> int:
    """Raise the level to the newest of this version, never lower it; return the level before."""
    before = await read_level(connection)
    await connection.execute(SQL["raise_level"], {"level": NEWEST_LEVEL})
    return before


async def other_versions(connection: Connection, application_name: str) -> list[tuple[str, int]]:
    """Return the names under which processes of other versions are connected to the database, with their number."""
    rows = await (await connection.execute(SQL["other_versions"], {"name": application_name})).fetchall()
    return [(name, number) for name, number in rows]
