"""Pace the large messages of one tenant while others send, so that writing them leaves time for the others' mail.

The send job handler calls it before it writes a large message. A burst of such messages would otherwise keep the
dispatcher busy for half a second, in which the jobs of other tenants stand still.
"""

import asyncio
from collections import OrderedDict
from typing import Final

MAX_BYTES_PER_S: Final = 4_000_000
"""Bytes of large messages per second and tenant beside others; writing and sending so many takes a sixth of a core."""
ACTIVE_S: Final = 5.0
"""Seconds after its last job for which a tenant counts as sending."""


class LargeMessagePacer:
    """The turns of tenants' large messages in one dispatcher."""

    def __init__(self) -> None:
        self._seen_at: OrderedDict[str, float] = OrderedDict()
        """The time of each active tenant's last job, by the event loop's clock, oldest first."""
        self._next_turn_at: dict[str, float] = {}

    def note_job(self, tenant: str) -> None:
        """Note that a tenant has a job now, and forget those that have had none for ACTIVE_S."""
        now = asyncio.get_running_loop().time()
        self._seen_at[tenant] = now
        self._seen_at.move_to_end(tenant)
        while now - next(iter(self._seen_at.values())) > ACTIVE_S:
            inactive, _ = self._seen_at.popitem(last=False)
            self._next_turn_at.pop(inactive, None)

    async def wait_turn(self, tenant: str, size: int) -> None:
        """Wait until a tenant's message of ``size`` bytes may be written: at once if no other tenant is active."""
        if len(self._seen_at) <= (tenant in self._seen_at):
            return
        now = asyncio.get_running_loop().time()
        turn_at = max(now, self._next_turn_at.get(tenant, now))
        self._next_turn_at[tenant] = turn_at + size / MAX_BYTES_PER_S
        await asyncio.sleep(turn_at - now)
