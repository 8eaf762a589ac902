"""The pool on a real Postgres: limits, lost connections, a server that accepts no writes."""

import asyncio
import contextlib
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from pipeline.errors import DatabaseUnavailable
from pipeline.runtime import startup
from pipeline.runtime.postgres.database import (
    DATABASE_UNAVAILABLE_ERRORS,
    Pool,
    autocommit_connection,
    open_database,
    open_standby,
    ping_database,
)
from pipeline.runtime.startup import wait_until_available
from pipeline.settings import Settings
from tests.support.seeing import until


@pytest.fixture
def made(database_url: str) -> Settings:
    return Settings(database_url=SecretStr(database_url))


async def ask(pool: Pool, query: str) -> Any:
    async with pool.connection() as connection:
        row = await (await connection.execute(query)).fetchone()  # type: ignore[arg-type,unused-ignore]
    return None if row is None else row[0]


def set_read_only(url: str, value: str) -> None:
    name = url.rpartition("/")[2]
    with psycopg.connect(url.rpartition("/")[0] + "/postgres", autocommit=True) as admin:
        admin.execute(f"alter database {name} set default_transaction_read_only = {value}")  # type: ignore[arg-type,unused-ignore]


def terminate_others(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )


async def test_connections_have_time_outs(made: Settings) -> None:
    own = made.model_copy(update={"database_statement_timeout": 2.5, "database_lock_timeout": 1.0})
    async with open_database(own, size=1) as pool:
        assert await ask(pool, "show statement_timeout") == "2500ms"
        assert await ask(pool, "show lock_timeout") == "1s"
        assert await ask(pool, "show idle_in_transaction_session_timeout") == "10s"


async def test_endless_statement_and_endless_lock_are_ended_as_unavailable(made: Settings) -> None:
    own = made.model_copy(update={"database_statement_timeout": 0.2, "database_lock_timeout": 0.1})
    async with open_database(own, size=2) as pool:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await ask(pool, "select pg_sleep(60)")
        async with pool.connection() as connection:
            await connection.execute("select pg_advisory_xact_lock(1)")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await ask(pool, "select pg_advisory_xact_lock(1)")
    assert issubclass(psycopg.errors.QueryCanceled, DATABASE_UNAVAILABLE_ERRORS)
    assert issubclass(psycopg.errors.LockNotAvailable, DATABASE_UNAVAILABLE_ERRORS)


async def test_connections_that_the_server_ended_are_not_handed_out(made: Settings, database_url: str) -> None:
    async with open_database(made, size=4) as pool:
        await asyncio.gather(*(ask(pool, "select 1 from pg_sleep(0.2)") for _ in range(4)))
        assert pool.get_stats()["pool_available"] == 4
        await asyncio.to_thread(terminate_others, database_url)
        assert [await ask(pool, "select 1") for _ in range(8)] == [1] * 8


async def test_a_server_that_accepts_no_writes_is_unavailable(made: Settings, database_url: str) -> None:
    async with open_database(made, size=1) as pool:
        await ping_database(pool, 5)
        set_read_only(database_url, "on")
        await asyncio.to_thread(terminate_others, database_url)
        with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
            await ping_database(pool, 0.5)
        with pytest.raises(DatabaseUnavailable, match="session is read-only"):
            async with open_database(made, size=1):
                pass
        set_read_only(database_url, "off")
        await until(lambda: answers(pool))


async def answers(pool: Pool) -> bool:
    try:
        await ping_database(pool, 0.5)
    except DATABASE_UNAVAILABLE_ERRORS:
        return False
    return True


async def test_ping_reports_a_connection_that_became_read_only(made: Settings) -> None:
    async with open_database(made, size=1) as pool:
        async with pool.connection() as connection:
            await connection.execute("set session characteristics as transaction read only")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await ping_database(pool, 5)
        await ping_database(pool, 5)


async def write_read_only(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("set transaction read only")
        await connection.execute("delete from admin.tenants")


async def test_connections_to_a_demoted_server_are_dropped(made: Settings) -> None:
    async with open_database(made, size=1) as pool:
        before = await ask(pool, "select pg_backend_pid()")
        assert await ask(pool, "select pg_backend_pid()") == before
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await write_read_only(pool)
        assert await ask(pool, "select pg_backend_pid()") != before


async def test_a_role_waits_until_postgres_accepts_writes(
    made: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "RETRY_INTERVAL_S", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        set_read_only(database_url, "on")
        waiting = asyncio.create_task(
            wait_until_available(
                "Postgres", lambda: stack.enter_async_context(open_database(made, size=1)), asyncio.Event()
            )
        )
        await asyncio.sleep(0.3)
        assert not waiting.done()
        set_read_only(database_url, "off")
        async with asyncio.timeout(10):
            assert await ask(await waiting, "select 1") == 1


async def test_a_standby_that_is_away_keeps_nobody_from_starting(made: Settings) -> None:
    own = made.model_copy(update={"database_read_url": SecretStr("postgresql://127.0.0.1:1/nowhere")})
    async with open_standby(own, size=2) as standby:
        assert standby is not None
        with pytest.raises(DATABASE_UNAVAILABLE_ERRORS):
            async with standby.connection(0.2):
                pass
    async with open_standby(made, size=2) as standby:
        assert standby is None


@pytest.mark.parametrize("turns", range(4))
async def test_cancellation_that_comes_with_the_connection_is_not_lost(made: Settings, turns: int) -> None:
    """The pool waits with `wait_for`, which swallows it on Python 3.11."""
    async with open_database(made, size=1) as pool:

        async def work() -> None:
            async with pool.connection():
                await asyncio.sleep(3600)

        async with pool.connection():
            waiting = asyncio.create_task(work())
            await asyncio.sleep(0.05)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        was_cancelled = waiting.cancelled()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert was_cancelled


async def test_statement_on_an_autocommit_connection_is_a_transaction(made: Settings) -> None:
    async with open_database(made, size=1) as pool:
        async with autocommit_connection(pool) as connection:
            await connection.execute("create table kept (id int)")
            with pytest.raises(psycopg.errors.UndefinedTable):
                await connection.execute("select * from missing")
            await connection.execute("insert into kept values (1)")
        async with pool.connection() as connection:
            assert not connection.autocommit
            await connection.execute("insert into kept values (2)")
            await connection.rollback()
        assert await ask(pool, "select array_agg(id) from kept") == [1]


async def test_connection_is_lent_again_after_a_cancelled_autocommit_statement(made: Settings) -> None:
    async with open_database(made, size=1) as pool:

        async def sleep_in_server() -> None:
            async with autocommit_connection(pool) as connection:
                await connection.execute("select pg_sleep(60)")

        sleeping = asyncio.create_task(sleep_in_server())
        await until(lambda: _is_sleeping(made))
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        async with pool.connection() as connection:
            assert not connection.autocommit


async def _is_sleeping(made: Settings) -> bool:
    with psycopg.connect(made.database_url.get_secret_value()) as connection:
        query = "select 1 from pg_stat_activity where query like '%pg_sleep(60)' and pid <> pg_backend_pid()"
        return connection.execute(query).fetchone() is not None
