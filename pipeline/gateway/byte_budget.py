"""Bytes of rendered contents that all requests of a gateway hold together, and how many render at once."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from pipeline.errors import LogUnavailable
from pipeline.runtime.fair_threads import CURRENT_CALLER

T = TypeVar("T")

MAX_CONTENT_BYTES_HELD: Final = 320_000_000
"""More than the largest request of one tenant (256 MB), so that others find room beside it."""
MAX_CONCURRENT_RENDERINGS: Final = 4
"""Rendering needs the interpreter's lock: more at once are no faster, and each needs memory of its own."""


class ByteBudget:
    """Lets requests render and hold contents while there is room; the others wait, in turn.

    No tenant renders in more than half of the slots, and what it holds beside a first request is no more than what is
    free beside it: however much one hands in, others find a slot and room.
    """

    def __init__(self, most: int = MAX_CONTENT_BYTES_HELD, renderings: int = MAX_CONCURRENT_RENDERINGS) -> None:
        self._most = most
        self._held = 0
        self._by_tenant: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(renderings)
        self._per_tenant = max(1, renderings // 2)
        self._slots_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def render_and_hold(
        self, render: Callable[[], T], size: Callable[[T], int], patience_s: float
    ) -> AsyncIterator[T]:
        """Render in a thread, and hold the room for what was made as long as the context lasts.

        Raise LogUnavailable, a 503, where there is none within ``patience_s``.
        """
        tenant = CURRENT_CALLER.get()
        async with self._slot(tenant, patience_s):
            made = await asyncio.to_thread(render)
            held = size(made)
            # The slot is kept meanwhile: what waits for room takes memory already.
            await self._hold(tenant, held, patience_s)
        try:
            yield made
        finally:
            self._give_back(tenant, held)

    @contextlib.asynccontextmanager
    async def _slot(self, tenant: str, patience_s: float) -> AsyncIterator[None]:
        """Wait for one of the tenant's slots before one of all, so that few of a tenant's requests stand in the way."""
        mine = self._slots_of.setdefault(tenant, asyncio.Semaphore(self._per_tenant))
        async with contextlib.AsyncExitStack() as slots:
            try:
                async with asyncio.timeout(patience_s):
                    await slots.enter_async_context(mine)
                    await slots.enter_async_context(self._slots)
            except TimeoutError:
                raise LogUnavailable from None
            yield

    async def _hold(self, tenant: str, wanted: int, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                while not self._fits(tenant, wanted):
                    await self._released.wait()
        except TimeoutError:
            raise LogUnavailable from None
        self._held += wanted
        self._by_tenant[tenant] += wanted

    def _fits(self, tenant: str, wanted: int) -> bool:
        left = self._most - self._held - wanted
        mine = self._by_tenant[tenant]
        # What is larger than all the room is let in alone.
        return not self._held or (left >= 0 and (not mine or mine + wanted <= left))

    def _give_back(self, tenant: str, held: int) -> None:
        self._held -= held
        self._by_tenant[tenant] -= held
        if self._by_tenant[tenant] <= 0:
            del self._by_tenant[tenant]
        released, self._released = self._released, asyncio.Event()
        released.set()
