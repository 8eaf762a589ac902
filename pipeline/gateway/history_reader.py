"""Read listings of emails from a standby, if there is one, and from the primary while it is away or behind.

The routes that list emails call it. What must be up to date, such as API keys and templates, is read from the primary.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg

from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, Pool
from pipeline.runtime.ttl_cache import TTLCache
from projections.history_queries import latest_projected_time, replay_age_s
from topics.record import Millis

T = TypeVar("T")
HistoryQueryFunction = Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]

STANDBY_CONNECTION_TIMEOUT_S: Final = 1.0
"""Seconds to wait for a connection to the standby before the primary is asked."""
STANDBY_RETRY_INTERVAL_S: Final = 5.0
"""Seconds for which a standby that was away is not asked again, so that few requests wait for it."""
DEFAULT_MAX_LAG_S: Final = 30.0
PRIMARY_TIME_TTL_S: Final = 1.0
"""Seconds for which the primary's projected time is remembered."""
PROJECTED_TIME_TTL_S: Final = 0.5
"""Seconds for which the projected time is remembered for all who wait for changes."""

log = get_logger(__name__)


class StandbyBehind(Exception):
    """The standby has not replayed the moment that a listing shows, or lags for too long."""


class HistoryReader:
    """Runs queries on the standby, and on the primary where the standby can't answer them."""

    def __init__(
        self,
        primary: Pool,
        standby: Pool | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        max_lag_s: float = DEFAULT_MAX_LAG_S,
    ) -> None:
        self._primary = primary
        self._standby = standby
        self._max_lag_s = max_lag_s
        self._primary_time: TTLCache[str, Millis] = TTLCache(PRIMARY_TIME_TTL_S, 1, monotonic)
        self._is_lagging = False
        self._projected: TTLCache[str, Millis] = TTLCache(PROJECTED_TIME_TTL_S, 1, monotonic)
        self._projected_lock = asyncio.Lock()
        self._monotonic = monotonic
        self._standby_away_until = -STANDBY_RETRY_INTERVAL_S

    async def read(self, query: HistoryQueryFunction[T], as_of: Millis | None = None) -> T:
        """Return the query's result; it reads only, and runs a second time if the standby fails.

        ``as_of``: the moment that the listing shows, if an earlier page has decided it. A standby that is behind that
        moment would leave emails out, so the primary is asked instead.
        """
        if self._standby is not None and self._monotonic() >= self._standby_away_until:
            try:
                return await self._read_standby(self._standby, query, as_of)
            except StandbyBehind:
                log.debug("standby is behind a listing, reading from the primary")
            except psycopg.errors.QueryCanceled:
                raise  # it took too long, and would on the primary
            except DATABASE_UNAVAILABLE_ERRORS as error:
                self._standby_away_until = self._monotonic() + STANDBY_RETRY_INTERVAL_S
                log.warning("standby unavailable, reading from the primary", error=type(error).__name__)
        async with self._primary.connection() as connection:
            return await query(connection)

    async def projected_time(self) -> Millis:
        """Return up to when everything is projected, half a second old at most: one query for all who wait."""

        async def load(_: str) -> Millis:
            return await self.read(latest_projected_time)

        async with self._projected_lock:
            return await self._projected.get("", load)

    async def _read_standby(self, standby: Pool, query: HistoryQueryFunction[T], as_of: Millis | None) -> T:
        async with standby.connection(STANDBY_CONNECTION_TIMEOUT_S) as connection:
            projected = await latest_projected_time(connection)
            if (as_of is not None and projected < as_of) or await self._lags(connection, projected):
                raise StandbyBehind
            return await query(connection)

    async def _lags(self, standby: psycopg.AsyncConnection[Any], projected: Millis) -> bool:
        """Return whether the standby lacks something that the primary has, and has replayed nothing for too long."""
        is_behind = projected < await self._primary_time.get("", self._load_primary_time)
        age_s = await replay_age_s(standby) if is_behind else None
        is_lagging = age_s is not None and age_s > self._max_lag_s
        if is_lagging and not self._is_lagging:
            log.warning("standby lags, reading from the primary", seconds=age_s, limit_s=self._max_lag_s)
        elif self._is_lagging and not is_lagging:
            log.warning("standby caught up, reading from it again")
        self._is_lagging = is_lagging
        return is_lagging

    async def _load_primary_time(self, _: str) -> Millis:
        """Return the primary's projected time; -1 where the primary does not answer, so that the standby does."""
        try:
            async with self._primary.connection(STANDBY_CONNECTION_TIMEOUT_S) as connection:
                return await latest_projected_time(connection)
        except DATABASE_UNAVAILABLE_ERRORS:
            return -1
