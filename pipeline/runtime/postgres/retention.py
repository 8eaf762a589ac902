"""Delete rows that are older than the settings keep them; the roles that own the tables run it beside their work.

Rows are deleted in small transactions that skip locked rows, so that the deletion delays no other work and any number
of processes may delete at the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.sleep import sleep_unless

logger = get_logger(__name__)

SWEEP_INTERVAL_S: Final = 600.0
"""Seconds between two sweeps of a process; rows are kept for days, so nobody waits for one."""
BATCH_ROWS: Final = 1000
"""Rows of one transaction, at most."""
BATCH_PAUSE_S: Final = 0.1
"""Seconds between two full batches: at most 10,000 rows a second, several times what one machine accepts."""


@dataclass(frozen=True)
class ExpiringRows:
    """Rows of one table that expire.

    ``statement`` deletes at most ``%(limit)s`` of them; ``values`` has its other parameters.
    """

    table: str
    statement: LiteralString
    values: Mapping[str, Any]


async def run_retention(rt: Runtime, expiring: Sequence[ExpiringRows]) -> None:
    """Delete expired rows until ``rt.stop``; an error of Postgres is logged, and the next sweep tries again."""
    while not rt.stop.is_set():
        for rows in expiring:
            try:
                deleted = await _sweep(rt, rows)
            except psycopg.Error as error:
                logger.warning("expired rows not deleted, retrying", table=rows.table, error=type(error).__name__)
            else:
                if deleted:
                    logger.info("expired rows deleted", table=rows.table, rows=deleted)
        await sleep_unless(rt.stop, SWEEP_INTERVAL_S)


async def delete_batch(pool: Pool, rows: ExpiringRows, limit: int = BATCH_ROWS) -> int:
    """Delete at most ``limit`` expired rows in one transaction; return how many."""
    async with pool.connection() as connection:
        return (await connection.execute(rows.statement, {**rows.values, "limit": limit})).rowcount


async def _sweep(rt: Runtime, rows: ExpiringRows) -> int:
    """Delete batches until one is not full or the role stops; return the number of deleted rows."""
    total = 0
    while not rt.stop.is_set():
        deleted = await delete_batch(rt.pool, rows)
        total += deleted
        if deleted < BATCH_ROWS:
            break
        await sleep_unless(rt.stop, BATCH_PAUSE_S)
    return total
