"""Where a listing is read: pools that are made up answer, fail or are behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import psycopg
import pytest

from pipeline.gateway.history_reader import (
    DEFAULT_MAX_LAG_S,
    PRIMARY_TIME_TTL_S,
    PROJECTED_TIME_TTL_S,
    STANDBY_RETRY_INTERVAL_S,
    HistoryReader,
)
from pipeline.runtime.postgres.database import Pool
from tests.support.logs import captured_log_lines


class MadeUpPool:
    """A pool whose connections have projected everything up to a time, or fail."""

    def __init__(self, name: str, projected_to: int = 100) -> None:
        self.name, self.projected_to, self.uses = name, projected_to, 0
        self.replay_age_s: float | None = 0.0
        self.error: Exception | None = None
        self._row: tuple[float | None] = (None,)

    @contextlib.asynccontextmanager
    async def connection(self, _timeout_s: float | None = None) -> AsyncIterator["MadeUpPool"]:
        self.uses += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        yield self

    async def execute(self, query: str, *_: Any) -> "MadeUpPool":
        self._row = (self.replay_age_s if "replay" in query else self.projected_to + 1,)
        return self

    async def fetchone(self) -> tuple[float | None]:
        return self._row


class MadeUpClock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def name_of(connection: Any) -> str:
    return str(connection.name)


@pytest.fixture
def primary() -> MadeUpPool:
    return MadeUpPool("primary")


@pytest.fixture
def standby() -> MadeUpPool:
    return MadeUpPool("standby")


@pytest.fixture
def clock() -> MadeUpClock:
    return MadeUpClock()


@pytest.fixture
def reader(primary: MadeUpPool, standby: MadeUpPool, clock: MadeUpClock) -> HistoryReader:
    return HistoryReader(cast("Pool", primary), cast("Pool", standby), clock)


async def test_standby_answers_and_without_one_the_primary(reader: HistoryReader, primary: MadeUpPool) -> None:
    assert await reader.read(name_of) == "standby"
    assert await HistoryReader(cast("Pool", primary)).read(name_of, as_of=50) == "primary"


async def test_standby_behind_the_listing_is_passed_over(reader: HistoryReader, standby: MadeUpPool) -> None:
    assert await reader.read(name_of, as_of=100) == "standby"
    assert await reader.read(name_of, as_of=101) == "primary"
    standby.projected_to = 101
    assert await reader.read(name_of, as_of=101) == "standby"


@pytest.mark.parametrize("error", [psycopg.errors.SerializationFailure, psycopg.errors.AdminShutdown])
async def test_standby_that_failed_is_asked_again_after_a_while(
    reader: HistoryReader, standby: MadeUpPool, clock: MadeUpClock, error: type[Exception]
) -> None:
    standby.error = error("away")
    assert await reader.read(name_of) == "primary"
    standby.error = None
    assert await reader.read(name_of) == "primary"
    assert standby.uses == 1
    clock.now += STANDBY_RETRY_INTERVAL_S
    assert await reader.read(name_of) == "standby"


async def test_query_that_took_too_long_is_not_repeated(
    reader: HistoryReader, standby: MadeUpPool, primary: MadeUpPool
) -> None:
    standby.error = psycopg.errors.QueryCanceled("statement timeout")
    with pytest.raises(psycopg.errors.QueryCanceled):
        await reader.read(name_of)
    assert primary.uses == 0


async def test_standby_that_lags_too_long_is_passed_over_until_it_has_caught_up(
    reader: HistoryReader, standby: MadeUpPool, primary: MadeUpPool, clock: MadeUpClock
) -> None:
    primary.projected_to, standby.replay_age_s = 101, DEFAULT_MAX_LAG_S
    with captured_log_lines() as lines:
        assert await reader.read(name_of) == "standby"
        standby.replay_age_s = DEFAULT_MAX_LAG_S + 1
        assert [await reader.read(name_of) for _ in range(3)] == ["primary"] * 3
        standby.projected_to = 101
        assert await reader.read(name_of) == "standby"
        clock.now += PRIMARY_TIME_TTL_S
        primary.projected_to = 102
        assert await reader.read(name_of) == "primary"
    events = [line["event"] for line in lines()]
    lags, caught_up = "standby lags, reading from the primary", "standby caught up, reading from it again"
    assert events == [lags, caught_up, lags]


async def test_idle_standby_that_lacks_nothing_answers_however_long_it_replayed_nothing(
    reader: HistoryReader, standby: MadeUpPool
) -> None:
    standby.replay_age_s = 1e6
    assert await reader.read(name_of) == "standby"


async def test_standby_answers_where_the_primary_does_not(
    reader: HistoryReader, standby: MadeUpPool, primary: MadeUpPool
) -> None:
    standby.replay_age_s, primary.projected_to = 1e6, 101
    primary.error = psycopg.errors.AdminShutdown("away")
    assert await reader.read(name_of) == "standby"


async def test_server_that_replays_nothing_is_no_standby_that_lags(
    reader: HistoryReader, standby: MadeUpPool, primary: MadeUpPool
) -> None:
    standby.replay_age_s, primary.projected_to = None, 101
    assert await reader.read(name_of) == "standby"


async def test_all_who_wait_for_changes_share_one_look_at_the_projected_time(clock: MadeUpClock) -> None:
    primary = MadeUpPool("primary", projected_to=7)
    reader = HistoryReader(cast("Pool", primary), monotonic=clock)
    assert await asyncio.gather(*(reader.projected_time() for _ in range(20))) == [7] * 20
    assert primary.uses == 1
    clock.now += PROJECTED_TIME_TTL_S
    assert await reader.projected_time() == 7
    assert primary.uses == 2
