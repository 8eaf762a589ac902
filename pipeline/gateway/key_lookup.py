"""Look API keys up in Postgres, cached for a few seconds, and slow wrong keys down; `auth` calls it.

The console's sessions use the same lookup for their cookies, without the cache.

A network of clients may try a few keys a second that this gateway has not served yet. More of them wait a second or
two, and are then looked up all together, so that any number of wrong keys costs one query a second. A key that was
served before takes neither way. So whoever floods the gateway with wrong keys slows themselves and, on the same
network, keys that this gateway has not served yet. Beyond thousands of waiting keys a further one gets a 503.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Final, Generic, TypeVar

from pipeline import admin
from pipeline.admin import ApiKey
from pipeline.errors import NotFound
from pipeline.gateway.headers import RETRY_SOON
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.rate_limit import TokenBucket
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool
from pipeline.runtime.ttl_cache import TTLCache
from topics.record import Millis

API_KEY_TTL_S: Final = 3.0
"""Seconds that a lookup is cached; until then a revoked key may still work."""
MAX_SERVED_KEYS: Final = 10_000
"""Right keys that are cached, and that are remembered as served; wrong ones use none of this."""
UNKNOWN_KEYS_PER_S: Final = 10.0
"""Keys not served before that one network may try a second, before they wait."""
SLOWED_LOOKUP_INTERVAL_S: Final = 1.0
MAX_SLOWED_LOOKUPS: Final = 5_000
"""Keys that wait for their lookup at once; connections limit them, too, but a client may close its own and leave."""
MAX_COUNTED_NETWORKS: Final = 10_000
"""Networks whose keys are counted, about 3 MB; the one that tried for the longest time nothing is forgotten first."""
NOTE_USE_TIMEOUT_S: Final = 1.0
_DAY_MS: Final = 86_400_000

V = TypeVar("V")
Sleep = Callable[[float], Awaitable[None]]
log = get_logger(__name__)


class KeyLookup:
    """Finds API keys by their hashes for one gateway."""

    def __init__(
        self,
        pool: Pool,
        count_slowed: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._pool = pool
        self._cached: TTLCache[bytes, ApiKey] = TTLCache(API_KEY_TTL_S, MAX_SERVED_KEYS, monotonic)
        self._lookup = SlowedLookup(self._find, count_slowed, monotonic, sleep)
        self._noted_on: Millis = 0
        self._noted: set[bytes] = set()

    async def find(self, hashed: bytes, network: str) -> ApiKey | None:
        """Return the key with this hash, None if it is unknown or revoked; ``network`` is the client's.

        Raise HttpProblem 503 while too many keys wait for their lookup.
        """
        try:
            return await self._cached.get(hashed, lambda _: self._load(hashed, network))
        except NotFound:
            return None

    async def note_use(self, key: ApiKey, now: Millis) -> None:
        """Store the day of the key's last use; once a day and gateway, and never at the cost of the request."""
        day = now // _DAY_MS
        if day != self._noted_on:
            self._noted_on, self._noted = day, set()
        if key.stored_hash in self._noted:
            return
        self._noted.add(key.stored_hash)
        today = _date(now)
        if key.last_used_on is not None and key.last_used_on >= today:
            return
        try:
            async with asyncio.timeout(NOTE_USE_TIMEOUT_S):
                await admin.note_key_use(self._pool, key.stored_hash, today)
        except (*DATABASE_UNAVAILABLE_ERRORS, TimeoutError) as error:
            log.info("last use of an API key not stored", error=type(error).__name__)

    async def _load(self, hashed: bytes, network: str) -> ApiKey:
        """Return the key with this hash. Raise NotFound, which is not cached, so that wrong keys use no memory."""
        key = await self._lookup.find(hashed, network)
        if key is None:
            raise NotFound
        return key

    async def _find(self, hashes: set[bytes]) -> dict[bytes, ApiKey]:
        return await admin.find_keys(self._pool, hashes)


class SlowedLookup(Generic[V]):
    """Looks up what has the hash of a secret, in batches, and slows the unknown hashes of each network down."""

    def __init__(
        self,
        find: Callable[[set[bytes]], Awaitable[dict[bytes, V]]],
        count_slowed: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._find_known = find
        self._count_slowed = count_slowed
        self._sleep = sleep
        self._served: OrderedDict[bytes, None] = OrderedDict()
        self._budgets = NetworkBudgets(monotonic)
        self._lookups = BatchLoader(self._find)
        self._slowed_lookups = BatchLoader(self._find_later)
        self._slowed = 0

    async def find(self, hashed: bytes, network: str) -> V | None:
        """Return what has this hash, None if nothing has; ``network`` is the client's.

        Raise HttpProblem 503 while too many hashes wait for their lookup.
        """
        if hashed in self._served:
            found = (await self._find({hashed}))[hashed]
        elif self._budgets.take(network):
            found = await self._lookups.get(hashed)
        else:
            found = await self._find_slowly(hashed)
        if found is None:
            self._served.pop(hashed, None)
            return None
        self._served[hashed] = None
        self._served.move_to_end(hashed)
        if len(self._served) > MAX_SERVED_KEYS:
            self._served.popitem(last=False)
        return found

    async def _find_slowly(self, hashed: bytes) -> V | None:
        if self._slowed >= MAX_SLOWED_LOOKUPS:
            raise HttpProblem(503, "too many wrong API keys at the moment; send it again", "", RETRY_SOON)
        self._count_slowed()
        self._slowed += 1
        try:
            return await self._slowed_lookups.get(hashed)
        finally:
            self._slowed -= 1

    async def _find_later(self, hashes: set[bytes]) -> dict[bytes, V | None]:
        await self._sleep(SLOWED_LOOKUP_INTERVAL_S)
        return await self._find(hashes)

    async def _find(self, hashes: set[bytes]) -> dict[bytes, V | None]:
        return dict.fromkeys(hashes) | await self._find_known(hashes)


class NetworkBudgets:
    """Counts the keys that each network tries, in bounded memory."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, network: str) -> bool:
        """Count one key; return False if the network has tried too many."""
        now = self._monotonic()
        bucket = self._buckets.setdefault(network, TokenBucket(now))
        self._buckets.move_to_end(network)
        if len(self._buckets) > MAX_COUNTED_NETWORKS:
            self._buckets.popitem(last=False)
        return bucket.take(1, UNKNOWN_KEYS_PER_S, now) == 1

    def __len__(self) -> int:
        """Return how many networks are counted."""
        return len(self._buckets)


def _date(now: Millis) -> date:
    return datetime.fromtimestamp(now / 1000, UTC).date()
