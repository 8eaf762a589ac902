"""A limit on the memory that request bodies use in one gateway, shared fairly between tenants and addresses.

`request_body.py` counts each body here. Bytes of unauthenticated clients are counted as they arrive, not as they are
announced: a client that announces a large body and sends it slowly holds little.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

ROOM_TIMEOUT_S: Final = 2.0
"""Seconds that a request waits for free bytes before it is refused."""
OWNER_MIN_BYTES: Final = 1_000_000
"""Bytes that an owner may hold in any case while so many are free, however much others hold."""


class BodyMemory:
    """A counter of the bytes of request bodies that one gateway holds.

    An owner may hold as much as stays free: a single owner half of the total, two a third each, n owners 1/(n+1) each.
    So another owner always finds some free, and no owner needs a quota.
    """

    def __init__(self, total: int, refused: Callable[[], None], wait_s: float = ROOM_TIMEOUT_S) -> None:
        self._total = total
        self._refused = refused
        self._wait_s = wait_s
        self._held = 0
        self._by_owner: Counter[str] = Counter()
        self._freed = asyncio.Event()

    @property
    def held(self) -> int:
        """Return the bytes held now."""
        return self._held

    def share(self, owner: str) -> "BodyShare":
        """Return an empty share for one request."""
        return BodyShare(self, owner)

    async def take(self, owner: str, size: int) -> bool:
        """Wait until ``size`` bytes fit, and count them; return False if they did not fit in time."""
        with contextlib.suppress(TimeoutError):
            # Random, so that requests that block each other do not all give up at once: the first frees its bytes.
            async with asyncio.timeout(self._wait_s * random.uniform(0.5, 1)):  # noqa: S311 - nothing secret
                while not self._fits(owner, size):
                    await self._freed.wait()
                self._held += size
                self._by_owner[owner] += size
                return True
        self._refused()
        return False

    def release(self, owner: str, size: int) -> None:
        """Release bytes of an owner, and wake the requests that wait for some."""
        if not size:
            return
        self._held -= size
        self._by_owner[owner] -= size
        if self._by_owner[owner] <= 0:
            del self._by_owner[owner]
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()

    def _fits(self, owner: str, size: int) -> bool:
        left = self._total - self._held - size
        return left >= 0 and self._by_owner[owner] + size <= max(OWNER_MIN_BYTES, left)


class BodyShare:
    """The bytes that one request's body holds, counted in the gateway's total and for the request's owner."""

    def __init__(self, memory: BodyMemory, owner: str) -> None:
        self._memory = memory
        self._owner = owner
        self._size = 0

    async def take(self, size: int) -> bool:
        """Hold ``size`` bytes more; return False if they did not fit in time."""
        if not await self._memory.take(self._owner, size):
            return False
        self._size += size
        return True

    def release(self, size: int) -> None:
        """Release ``size`` bytes."""
        self._memory.release(self._owner, size)
        self._size -= size

    def release_all(self) -> None:
        """Release all bytes."""
        self.release(self._size)
