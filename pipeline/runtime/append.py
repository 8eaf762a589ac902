"""Append records of outcomes until the log confirms them; the dispatcher and the emitter call it.

After a 250 or a 2xx the outcome is final: without its record, the message would be sent again.
Event ids are deterministic, so an outcome that is on the log twice counts as one fact.
"""

import asyncio
from collections.abc import Sequence

from pipeline.runtime.logs import get_logger
from pipeline.runtime.ports import Log, LogEntry

logger = get_logger(__name__)

MAX_RETRY_DELAY_S = 5.0


async def append_until_confirmed(log: Log, entries: Sequence[LogEntry]) -> None:
    """Append the entries, and repeat those that are not confirmed until all are; only cancellation ends it earlier."""
    delay_s = 0.2
    unconfirmed = list(entries)
    while unconfirmed:
        places = await log.append(unconfirmed)
        unconfirmed = [entry for entry, place in zip(unconfirmed, places, strict=True) if place is None]
        if unconfirmed:
            logger.warning("log did not confirm outcomes, retrying", outcomes=len(unconfirmed))
            await asyncio.sleep(delay_s)
            delay_s = min(MAX_RETRY_DELAY_S, 2 * delay_s)
