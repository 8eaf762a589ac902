"""Cache values for a few seconds: operators' decisions, API keys, providers, certificates."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

DECISION_TTL_S: Final = 2.0
"""Seconds for which an operator's decision is cached: it changes seldom, and a query per job would be too many."""
MAX_DECISIONS: Final = 10_000
MAX_KEY_CHARS: Final = 1_000
"""Length of a key's repr above which its value is not cached: callers choose parts of keys, and could fill memory."""


class TTLCache(Generic[K, V]):
    """A cache of at most ``max_entries`` values, None included, each for ``seconds`` from when its loading began.

    When it is full, the oldest value is dropped.
    """

    def __init__(self, seconds: float, max_entries: int, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        self._now = now
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        """The expiry, by ``now``'s clock, and the value of each key."""

    async def get(self, key: K, load: Callable[[K], Awaitable[V]]) -> V:
        """Return the cached value, else the result of ``load``, which is then cached. An error is not cached."""
        entry = self._entries.get(key)
        if entry is not None and entry[0] > self._now():
            return entry[1]
        started_at = self._now()
        value = await load(key)
        if len(repr(key)) <= MAX_KEY_CHARS:
            self._put(key, value, started_at)
        return value

    def put(self, key: K, value: V) -> None:
        """Cache a value that was loaded elsewhere."""
        self._put(key, value, self._now())

    def _put(self, key: K, value: V, at: float) -> None:
        self._entries[key] = (at + self._seconds, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def __contains__(self, key: K) -> bool:
        """Return whether a value is cached for this key and has not expired."""
        entry = self._entries.get(key)
        return entry is not None and entry[0] > self._now()

    def __len__(self) -> int:
        """Return how many values are cached, expired ones included."""
        return len(self._entries)
