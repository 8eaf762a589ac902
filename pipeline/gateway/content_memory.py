"""Limits on the rendered contents that one gateway holds in memory, and on how many requests render at once.

The routes that render messages (email_v1, freshmail) use it through
:class:`pipeline.gateway.tenant_limits.TenantLimits`.
"""

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
"""More than the largest request of one tenant (256 MB), so that other tenants' requests fit beside it."""
MAX_CONCURRENT_RENDERINGS: Final = 4
"""More would not be faster, because rendering holds the interpreter's lock, and each takes memory of its own."""


class ContentMemory:
    """A budget of bytes and rendering slots; requests that find none free wait in turn.

    No tenant uses more than half of the slots. A tenant's second and later requests are admitted only while the tenant
    holds no more bytes than are free, so other tenants always find a slot and bytes.
    """

    def __init__(self, max_bytes: int = MAX_CONTENT_BYTES_HELD, renderings: int = MAX_CONCURRENT_RENDERINGS) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._by_tenant: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(renderings)
        self._per_tenant = max(1, renderings // 2)
        self._tenant_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def render_and_hold(
        self, render: Callable[[], T], size: Callable[[T], int], timeout_s: float
    ) -> AsyncIterator[T]:
        """Render in a thread, yield the result, and hold its bytes while the context lasts.

        ``size`` returns the result's bytes. Raise LogUnavailable, which is answered 503, if no slot or too few bytes
        are free within ``timeout_s``.
        """
        tenant = CURRENT_CALLER.get()
        async with self._slot(tenant, timeout_s):
            contents = await asyncio.to_thread(render)
            size_bytes = size(contents)
            # The slot stays taken meanwhile, because contents that wait for bytes are in memory already.
            await self._hold(tenant, size_bytes, timeout_s)
        try:
            yield contents
        finally:
            self._release(tenant, size_bytes)

    @contextlib.asynccontextmanager
    async def _slot(self, tenant: str, timeout_s: float) -> AsyncIterator[None]:
        """Hold a slot of the tenant and one of the gateway.

        The tenant's comes first, so that only few of its requests queue for the gateway's.
        """
        tenant_slots = self._tenant_slots.setdefault(tenant, asyncio.Semaphore(self._per_tenant))
        async with contextlib.AsyncExitStack() as slots:
            try:
                async with asyncio.timeout(timeout_s):
                    await slots.enter_async_context(tenant_slots)
                    await slots.enter_async_context(self._slots)
            except TimeoutError:
                raise LogUnavailable from None
            yield

    async def _hold(self, tenant: str, wanted: int, timeout_s: float) -> None:
        """Wait until ``wanted`` bytes fit, and count them. Raise LogUnavailable after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._fits(tenant, wanted):
                    await self._released.wait()
        except TimeoutError:
            raise LogUnavailable from None
        self._held += wanted
        self._by_tenant[tenant] += wanted

    def _fits(self, tenant: str, wanted: int) -> bool:
        left = self._max_bytes - self._held - wanted
        held_by_tenant = self._by_tenant[tenant]
        # Contents that are larger than the whole budget are admitted when nothing else is held.
        return not self._held or (left >= 0 and (not held_by_tenant or held_by_tenant + wanted <= left))

    def _release(self, tenant: str, size_bytes: int) -> None:
        self._held -= size_bytes
        self._by_tenant[tenant] -= size_bytes
        if self._by_tenant[tenant] <= 0:
            del self._by_tenant[tenant]
        released, self._released = self._released, asyncio.Event()
        released.set()
