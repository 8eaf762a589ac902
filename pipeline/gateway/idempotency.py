"""Identities and what they were first used for -> which of them now mean something else.

Reserved before the append, so that of two requests at once only one is right; a reservation whose
append fails is taken up again by the repeat, which has the same fingerprint.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.runtime.database import Pool
from projections.sql import SqlQueries
from topics.ids import fingerprint
from topics.record import EmailId, Millis

__all__ = ["fingerprint", "reserve_ids"]

SQL = SqlQueries(Path(__file__).with_name("identities.sql"))


async def reserve_ids(pool: Pool, wanted: Mapping[EmailId, bytes], now: Millis) -> set[EmailId]:
    """Reserve all; those that are taken for another recipient or brand come back."""
    if not wanted:
        return set()
    values = {"ids": list(wanted), "fingerprints": list(wanted.values()), "now": now}
    async with pool.connection() as connection:
        async with connection.pipeline():
            await connection.execute(SQL["reserve"], values)
            found = await connection.execute(SQL["conflicting"], values)
        rows = await found.fetchall()
    return {EmailId(str(row[0])) for row in rows}
