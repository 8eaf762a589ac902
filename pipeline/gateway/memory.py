"""How many bytes of request bodies one gateway has in hand, shared out fairly between tenants and addresses.

Strangers' bytes are counted as they arrive, not as they are announced: who trickles a large body holds little.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

ROOM_TIMEOUT_S: Final = 2.0
"""How long a request waits for room, at most, before it is refused."""
OWNER_MIN_BYTES: Final = 1_000_000
"""What an owner may always hold while any room is left, however many others hold more."""


class BodyMemory:
    """Limits the bytes of request bodies that one gateway holds.

    An owner may hold as much as is free beside it: one alone half of all, two a third each, n owners 1/(n+1) each. So
    there is always room for one more, and no owner needs a quota.
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
        """Bytes in hand."""
        return self._held

    def share(self, owner: str) -> "BodyShare":
        """Return an empty share for one request."""
        return BodyShare(self, owner)

    async def take(self, owner: str, size: int) -> bool:
        """Count bytes in; False where there was no room in time."""
        with contextlib.suppress(TimeoutError):
            # Requests that stop each other don't give up all at once: each makes room for those that still wait.
            async with asyncio.timeout(self._wait_s * random.uniform(0.5, 1)):  # noqa: S311 - nothing secret
                while not self._fits(owner, size):
                    await self._freed.wait()
                self._held += size
                self._by_owner[owner] += size
                return True
        self._refused()
        return False

    def give_back(self, owner: str, size: int) -> None:
        """Count bytes out."""
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
    """The bytes that one request's body holds."""

    def __init__(self, memory: BodyMemory, owner: str) -> None:
        self._memory = memory
        self._owner = owner
        self._size = 0

    async def take(self, size: int) -> bool:
        """Hold more; False where there was no room in time."""
        if not await self._memory.take(self._owner, size):
            return False
        self._size += size
        return True

    def give_back(self, size: int) -> None:
        """Give bytes back."""
        self._memory.give_back(self._owner, size)
        self._size -= size

    def release_all(self) -> None:
        """Give all bytes back."""
        self.give_back(self._size)
