"""Answers remembered for a short while, the absence of one too; bounded."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """At most ``bound`` answers, each for ``seconds``; the oldest goes first."""

    def __init__(self, seconds: float, bound: int, now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._bound = bound
        self._now = now
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()

    async def get(self, key: K, ask: Callable[[K], Awaitable[V]]) -> V:
        """The remembered answer, else ``ask``'s. An error is not remembered."""
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._now():
            return kept[1]
        value = await ask(key)
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember an answer that nobody asked for."""
        self._kept[key] = (self._now() + self._seconds, value)
        self._kept.move_to_end(key)
        if len(self._kept) > self._bound:
            self._kept.popitem(last=False)

    def __contains__(self, key: K) -> bool:
        """Whether its answer is known and fresh."""
        kept = self._kept.get(key)
        return kept is not None and kept[0] > self._now()

    def __len__(self) -> int:
        """How many answers are kept, stale ones included."""
        return len(self._kept)
