"""Outcomes that already happened in, their places on the log out: repeated until the log has them.

After a 250 or a 2xx there is no way back: giving up on the record would mean to send again.
The event ids are deterministic, so an outcome that lies on the log twice is one fact.
"""

import asyncio
import logging
from collections.abc import Sequence

from pipeline.runtime.ports import Log, LogEntry

logger = logging.getLogger(__name__)

MAX_RETRY_DELAY_S = 5.0


async def append_until_confirmed(log: Log, entries: Sequence[LogEntry]) -> None:
    """Append until every entry is confirmed; ends otherwise only by cancellation."""
    wait = 0.2
    left = list(entries)
    while left:
        places = await log.append(left)
        left = [entry for entry, place in zip(left, places, strict=True) if place is None]
        if left:
            logger.warning("the log did not confirm %d outcomes; trying again", len(left))
            await asyncio.sleep(wait)
            wait = min(MAX_RETRY_DELAY_S, 2 * wait)
