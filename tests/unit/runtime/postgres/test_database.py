"""The pool during outages of any length: the server and the time are made up, the pool is the real one."""

import asyncio
import os
import selectors
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self

import psycopg
import psycopg_pool.base
import psycopg_pool.pool_async
import psycopg_pool.sched_async
import pytest
from psycopg.pq import TransactionStatus

from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS, HealingPool
from pipeline.settings import Settings

MINUTE_S = 60.0
USERS = 6


class LeapingSelector(selectors.DefaultSelector):
    """A selector that does not wait: it moves the loop's clock forward by the time that it should wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop in which an hour passes in a moment."""

    def __init__(self) -> None:
        self._leaping = LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


class MadeUpServer:
    """A server that can be down; a start does not bring back the connections from before."""

    def __init__(self, quiet_descriptor: int) -> None:
        self.is_up, self.starts, self.quiet_descriptor = True, 0, quiet_descriptor

    def stop(self) -> None:
        self.is_up = False

    def start(self) -> None:
        self.is_up, self.starts = True, self.starts + 1


class MadeUpConnection:
    """What the pool uses of a connection."""

    server: MadeUpServer
    autocommit = False

    def __init__(self) -> None:
        self.pgconn = SimpleNamespace(transaction_status=TransactionStatus.IDLE)
        self._start = self.server.starts

    @classmethod
    async def connect(cls, _conninfo: str, **_: Any) -> Self:
        if not cls.server.is_up:
            raise psycopg.OperationalError("connection refused")
        return cls()

    def fileno(self) -> int:
        if not self._is_alive():
            raise psycopg.OperationalError("the connection is closed")
        return self.server.quiet_descriptor

    async def execute(self, *_: Any) -> None:
        if not self._is_alive():
            self.pgconn.transaction_status = TransactionStatus.UNKNOWN
            raise psycopg.errors.AdminShutdown("terminating connection due to administrator command")

    async def set_autocommit(self, value: bool) -> None:
        self.autocommit = value

    async def commit(self) -> None:
        pass

    async def rollback(self) -> None:
        pass

    async def close(self) -> None:
        self.pgconn.transaction_status = TransactionStatus.UNKNOWN

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def _is_alive(self) -> bool:
        return self.server.is_up and self._start == self.server.starts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeUpServer]:
    for module in (psycopg_pool.base, psycopg_pool.pool_async, psycopg_pool.sched_async):
        monkeypatch.setattr(module, "monotonic", lambda: asyncio.get_running_loop().time())
    ends = os.pipe()
    made = MadeUpServer(ends[0])
    monkeypatch.setattr(MadeUpConnection, "server", made, raising=False)
    yield made
    for end in ends:
        os.close(end)


async def use_pool(pool: HealingPool, uses: dict[bool, list[float]]) -> None:
    """Use the pool again and again as a role does, and record the times of successes and failures."""
    while True:
        try:
            async with pool.connection() as connection:
                await connection.execute("select 1")
        except DATABASE_UNAVAILABLE_ERRORS:
            uses[False].append(asyncio.get_running_loop().time())
            await asyncio.sleep(1)
        else:
            uses[True].append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.5)


async def survive(server: MadeUpServer, outage_s: float) -> tuple[float, float]:
    """Return how long after an outage each user had a connection again, and how long after it the last failure was."""
    pool = HealingPool("", Settings(), min_size=1, max_size=4)
    pool.connection_class = MadeUpConnection  # type: ignore[assignment]
    await pool.open(wait=True)
    uses: list[dict[bool, list[float]]] = [{True: [], False: []} for _ in range(USERS)]
    tasks = [asyncio.create_task(use_pool(pool, own)) for own in uses]
    await asyncio.sleep(10)
    server.stop()
    await asyncio.sleep(outage_s)
    server.start()
    back = asyncio.get_running_loop().time()
    await asyncio.sleep(10 * MINUTE_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.close()
    first = max(min((at for at in own[True] if at >= back), default=float("inf")) for own in uses)
    last_failure = max((at for own in uses for at in own[False]), default=back)
    return first - back, last_failure - back


@pytest.mark.parametrize("outage_s", [10.0, 6 * MINUTE_S, 60 * MINUTE_S])
def test_every_user_of_the_pool_is_back_soon_after_an_outage_of_any_length(
    server: MadeUpServer, outage_s: float
) -> None:
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        healed, last_failure = runner.run(survive(server, outage_s))
    assert healed <= 15
    assert last_failure <= 15


@pytest.mark.parametrize(
    "error",
    [
        psycopg_pool.PoolTimeout,
        psycopg.InterfaceError,
        psycopg.errors.AdminShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.TransactionTimeout,
        psycopg.errors.QueryCanceled,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.DiskFull,
        psycopg.errors.TooManyConnections,
    ],
)
def test_error_means_that_postgres_is_away(error: type[Exception]) -> None:
    assert issubclass(error, DATABASE_UNAVAILABLE_ERRORS)


@pytest.mark.parametrize("error", [psycopg.errors.UndefinedTable, psycopg.DataError, psycopg.IntegrityError, OSError])
def test_error_of_ours_does_not(error: type[Exception]) -> None:
    assert not issubclass(error, DATABASE_UNAVAILABLE_ERRORS)


def test_a_restart_between_two_uses_is_not_noticed(server: MadeUpServer) -> None:
    async def restart() -> None:
        pool = HealingPool("", Settings(), min_size=4, max_size=4)
        pool.connection_class = MadeUpConnection  # type: ignore[assignment]
        await pool.open(wait=True)
        server.stop()
        server.start()
        for _ in range(8):
            async with pool.connection() as connection:
                await connection.execute("select 1")
        await pool.close()

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(restart())
