"""Append records of outcomes until the log confirms them; the dispatcher and the emitter call it.

After a 250 or a 2xx the outcome is final: without its record, the message would be sent again.
Event ids are deterministic, so an outcome that is on the log twice counts as one fact.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ports import Log, LogEntry

logger = get_logger(__name__)

MAX_RETRY_DELAY_S = 5.0
GATHER_S: Final = 0.01
"""Seconds between two appends of outcomes: what comes meanwhile goes to the log in the same request."""


class AppendGate:
    """A gate before appends of single outcomes, which lets them pass together while there are many.

    An outcome that comes alone passes at once.
    """

    def __init__(self) -> None:
        self._opens_at = 0.0

    async def wait(self) -> None:
        """Wait until the gate opens, for `GATHER_S` at most."""
        loop = asyncio.get_running_loop()
        if (seconds := self._opens_at - loop.time()) > 0:
            await asyncio.sleep(seconds)
        self._opens_at = loop.time() + GATHER_S


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
