"""Reserve the ids of emails in Postgres, so that an id is never used for a second recipient or brand.

The intake reserves before it appends: of two concurrent requests only one may use an id. A reservation whose
append failed is used again by the repeated request, which has the same fingerprint.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.runtime.postgres.database import Pool
from projections.sql import SqlQueries
from topics.ids import fingerprint
from topics.record import EmailId, Millis

__all__ = ["fingerprint", "reserve_ids"]

SQL = SqlQueries(Path(__file__).with_name("identities.sql"))


async def reserve_ids(pool: Pool, fingerprints: Mapping[EmailId, bytes], now: Millis) -> set[EmailId]:
    """Reserve the ids; return those that are already reserved with another fingerprint."""
    if not fingerprints:
        return set()
    values = {"ids": list(fingerprints), "fingerprints": list(fingerprints.values()), "now": now}
    async with pool.connection() as connection:
        async with connection.pipeline():
            await connection.execute(SQL["reserve"], values)
            conflicts = await connection.execute(SQL["conflicting"], values)
        rows = await conflicts.fetchall()
    return {EmailId(str(row[0])) for row in rows}
