"""Bytes of rendered contents that all requests of a gateway hold together, and how many render at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

from pipeline.errors import LogUnavailable

T = TypeVar("T")

MAX_BYTES_IN_HAND: Final = 256_000_000
MAX_RENDERINGS: Final = 4
"""Rendering needs the interpreter's lock: more at once are no faster, and each needs memory of its own."""


class ByteBudget:
    """Lets requests render and hold contents while there is room; the others wait, in turn."""

    def __init__(self, most: int = MAX_BYTES_IN_HAND, renderings: int = MAX_RENDERINGS) -> None:
        self._most = most
        self._held = 0
        self._slots = asyncio.Semaphore(renderings)
        self._released = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def rendered(self, render: Callable[[], T], size: Callable[[T], int], patience_s: float) -> AsyncIterator[T]:
        """Render in a thread, and hold the room for what was made as long as the context lasts.

        Raise LogUnavailable, a 503, where there is none within ``patience_s``.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise LogUnavailable from None
        try:
            made = await asyncio.to_thread(render)
            # The slot is kept meanwhile: what waits for room takes memory already.
            held = await self._hold(size(made), patience_s)
        finally:
            self._slots.release()
        try:
            yield made
        finally:
            async with self._released:
                self._held -= held
                self._released.notify_all()

    async def _hold(self, wanted: int, patience_s: float) -> int:
        try:
            async with asyncio.timeout(patience_s), self._released:
                # What is larger than all the room is let in alone.
                await self._released.wait_for(lambda: self._held == 0 or self._held + wanted <= self._most)
                self._held += wanted
        except TimeoutError:
            raise LogUnavailable from None
        return wanted
