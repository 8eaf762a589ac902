"""An operator's decisions, asked at most once in a while: what changes seldom isn't asked for each job."""

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

SECONDS = 2.0
MOST = 10_000
MAX_KEY_CHARS = 1_000
"""What is longer is not remembered: keys hold names that callers choose."""


class Remembered(Generic[K, V]):
    """Answers of ``ask``, each remembered for two seconds; an error is not."""

    def __init__(self, ask: Callable[[K], Awaitable[V]], now: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._now = now
        self._known: dict[K, tuple[float, V]] = {}

    async def get(self, key: K) -> V:
        """The answer, at most two seconds old."""
        known = self._known.get(key)
        if known is not None and self._now() - known[0] < SECONDS:
            return known[1]
        begun = self._now()
        value = await self._ask(key)
        if len(repr(key)) > MAX_KEY_CHARS:
            return value
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = (begun, value)
        return value
