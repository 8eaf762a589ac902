"""Where a listing is read: pools that are made up answer, fail or are behind."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import psycopg
import pytest

from pipeline.gateway.history_reader import STANDBY_RETRY_INTERVAL_S, HistoryReader
from pipeline.runtime.database import Pool


class MadeUpPool:
    """A pool whose connections have projected everything up to a time, or fail."""

    def __init__(self, name: str, projected_to: int = 100) -> None:
        self.name, self.projected_to, self.uses = name, projected_to, 0
        self.error: Exception | None = None

    @contextlib.asynccontextmanager
    async def connection(self, _timeout_s: float | None = None) -> AsyncIterator["MadeUpPool"]:
        self.uses += 1
        if self.error is not None:
            raise self.error
        yield self

    async def execute(self, *_: Any) -> "MadeUpPool":
        return self

    async def fetchone(self) -> tuple[int]:
        return (self.projected_to + 1,)


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
    assert primary.uses == 0
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
