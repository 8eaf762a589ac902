"""Counts the rows that an older version's projector wrote, in the background; the role `mailfold project` runs it.

After an upgrade that may be every email, and while an older projector runs beside this one there are more. Small
batches with pauses, so that it costs the same however many there are. Of several projectors, the one that has
partition 0 does it.
"""

from collections.abc import Callable
from typing import Final

import psycopg

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.sleep import sleep_unless
from projections.sink import Sink

BATCH_ROWS: Final = 200
BATCH_PAUSE_S: Final = 0.2
"""Seconds between two batches. One takes about 50 ms, for which its partition waits."""
ROUND_INTERVAL_S: Final = 30.0
"""Seconds after which it looks again when there was nothing to count, or Postgres did not answer."""

logger = get_logger(__name__)


async def count_older_rows(rt: Runtime, sink: Sink, is_owner: Callable[[], bool]) -> None:
    """Count batch after batch until ``rt.stop``."""
    total = 0
    while not rt.stop.is_set():
        counted = 0
        if is_owner():
            try:
                async with rt.pool.connection() as connection:
                    counted = await sink.count_older_rows(connection, BATCH_ROWS)
            except psycopg.Error as error:
                logger.warning("older rows not counted, retrying", error=type(error).__name__)
            else:
                total += counted
                if total and not counted:
                    logger.info("older rows counted", rows=total)
                    total = 0
        await sleep_unless(rt.stop, BATCH_PAUSE_S if counted else ROUND_INTERVAL_S)
