"""Answers that are remembered for a short while: operators' decisions, API keys, providers, certificates."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

DECISION_TTL_S: Final = 2.0
"""For what an operator decides: it changes seldom, and isn't asked for each job."""
MAX_DECISIONS: Final = 10_000
MAX_KEY_CHARS: Final = 1_000
"""What is longer is not remembered: keys hold names that callers choose."""


class TTLCache(Generic[K, V]):
    """At most ``bound`` answers, None included, each for ``seconds`` from when it was asked; the oldest goes first."""

    def __init__(self, seconds: float, bound: int, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._bound = bound
        self._now = now
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()

    async def get(self, key: K, ask: Callable[[K], Awaitable[V]]) -> V:
        """Return the remembered answer, else that of ``ask``. An error is not remembered."""
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._now():
            return kept[1]
        asked_at = self._now()
        value = await ask(key)
        if len(repr(key)) <= MAX_KEY_CHARS:
            self._put(key, value, asked_at)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember an answer that nobody asked for."""
        self._put(key, value, self._now())

    def _put(self, key: K, value: V, at: float) -> None:
        self._kept[key] = (at + self._seconds, value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._bound:
            self._kept.popitem(last=False)

    def __contains__(self, key: K) -> bool:
        """Return whether its answer is known and fresh."""
        kept = self._kept.get(key)
        return kept is not None and kept[0] > self._now()

    def __len__(self) -> int:
        """Return how many answers are kept, stale ones included."""
        return len(self._kept)
