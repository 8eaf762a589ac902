"""Open pools of Postgres connections that survive outages of any length; roles and commands call it."""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from pipeline.errors import DatabaseUnavailable
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.conninfo import (
    first_line,
    is_behind_pooler,
    pooled_conninfo,
    session_conninfo,
    standby_conninfo,
)
from pipeline.runtime.postgres.schema import require_schema
from pipeline.settings import Settings
from projections.sql import SqlQueries

DATABASE_UNAVAILABLE_ERRORS: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)
"""Errors after which to try again, the only such list of the product: Postgres or the pool does not answer in time (a
PoolTimeout is an OperationalError), the connection was lost, or the server accepts no writes because it was demoted."""

CONNECTION_TIMEOUT_S: Final = 5.0
"""Seconds to wait for a free connection."""
RECONNECT_TIMEOUT_S: Final = 5.0
"""Seconds for which a pool repeats a failed attempt to connect, with pauses that double up to this.

After that the next user of the pool begins anew, at once. With a long time the pauses become long, too: the library's
300 seconds leave a pool without connections for up to two minutes after the server is back.
"""
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 10.0
"""Seconds after which a process that was frozen in a transaction loses its row locks."""

SQL: Final = SqlQueries(Path(__file__).with_name("database.sql"))
_TIME_LIMITS: Final = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
log = get_logger(__name__)


class HealingPool(AsyncConnectionPool[psycopg.AsyncConnection[Any]]):
    """A pool that hands out no connection that the server has closed, and leaves a server that was demoted."""

    def __init__(self, conninfo: str, settings: Settings, *, min_size: int, max_size: int) -> None:
        self._settings = settings
        behind_pooler = is_behind_pooler(settings)
        super().__init__(
            conninfo,
            min_size=min_size,
            max_size=max_size,
            open=False,
            timeout=CONNECTION_TIMEOUT_S,
            reconnect_timeout=RECONNECT_TIMEOUT_S,
            configure=None if behind_pooler else self._set_time_limits,
            check=self._check_if_closed,
            # A pooler's next transaction may run on a connection that does not know the prepared statement.
            kwargs={"prepare_threshold": None} if behind_pooler else {},
        )

    @contextlib.asynccontextmanager
    async def connection(  # the base class has this parameter
        self,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Lend a connection, as the base class does; after the server refused a write, replace all connections."""
        task = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        async with super().connection(timeout) as connection:
            # The library waits with Python 3.11's `wait_for`, which swallows a cancellation that comes at the same
            # moment as the connection. Whoever cancelled would wait for ever, and the work go on.
            if task.cancelling() > cancelled_before:
                raise asyncio.CancelledError
            try:
                yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                await self.drain()
                raise

    async def _set_time_limits(self, connection: psycopg.AsyncConnection[Any]) -> None:
        seconds = (
            self._settings.database_statement_timeout,
            self._settings.database_lock_timeout,
            IDLE_IN_TRANSACTION_TIMEOUT_S,
        )
        values = {"names": list(_TIME_LIMITS), "values": [f"{round(1000 * limit)}ms" for limit in seconds]}
        await connection.execute(SQL["set_time_limits"], values)
        await connection.commit()

    async def _check_if_closed(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Raise OperationalError if the server has closed the connection; costs no round trip while it has not."""
        if not _has_unread_bytes(connection):
            return
        try:
            await self.check_connection(connection)
        except psycopg.Error:
            # A server that goes down closes all: replace the others now, not one by one with a pause after each.
            await self.check()
            raise


def _has_unread_bytes(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether an idle connection has something to read, which is normal only when the server has ended it."""
    try:
        descriptor = connection.fileno()
    except psycopg.OperationalError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


@contextlib.asynccontextmanager
async def open_database(settings: Settings, *, size: int = 4) -> AsyncIterator[Pool]:
    """Open a pool of at most ``size`` connections to a migrated database; close it at the end.

    Raise InvalidSettings for a missing or invalid URL, DatabaseUnavailable where Postgres does not answer, and
    SchemaMismatch for a schema that is older or newer than this version needs.
    """
    pool = HealingPool(pooled_conninfo(settings), settings, min_size=1, max_size=size)
    try:
        try:
            await require_schema(settings)
            await pool.open(wait=True, timeout=10)
            if is_behind_pooler(settings):
                await _warn_without_time_limits(pool)
        except DATABASE_UNAVAILABLE_ERRORS as error:
            raise DatabaseUnavailable(f"Postgres at DATABASE_URL does not answer: {first_line(error)}") from error
        yield pool
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def autocommit_connection(pool: Pool) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Lend a connection on which each statement is a transaction: one round trip instead of three."""
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        try:
            yield connection
        finally:
            # The pool closes a connection in any other state.
            if connection.info.transaction_status is TransactionStatus.IDLE:
                await connection.set_autocommit(False)


async def connect_session(settings: Settings) -> psycopg.AsyncConnection[Any]:
    """Return a new connection in autocommit mode, without time-outs. Raise InvalidSettings and psycopg.Error."""
    return await psycopg.AsyncConnection.connect(session_conninfo(settings), autocommit=True)


@contextlib.asynccontextmanager
async def open_standby(settings: Settings, *, size: int) -> AsyncIterator[Pool | None]:
    """Open a pool of at most ``size`` connections to the standby of DATABASE_READ_URL; yield None where there is none.

    The standby need not answer: a connection is made when one is wanted. Raise InvalidSettings for an invalid URL.
    """
    conninfo = standby_conninfo(settings)
    if conninfo is None:
        yield None
        return
    async with _open_empty_pool(conninfo, settings, size) as pool:
        yield pool


@contextlib.asynccontextmanager
async def open_second_pool(settings: Settings, *, size: int) -> AsyncIterator[Pool]:
    """Open another pool of at most ``size`` connections to the database that :func:`open_database` has opened.

    Who waits for one of its connections delays nobody who uses the first pool.
    """
    async with _open_empty_pool(pooled_conninfo(settings), settings, size) as pool:
        yield pool


@contextlib.asynccontextmanager
async def _open_empty_pool(conninfo: str, settings: Settings, size: int) -> AsyncIterator[Pool]:
    """Open a pool that makes a connection when one is wanted."""
    pool = HealingPool(conninfo, settings, min_size=0, max_size=size)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def ping_database(pool: Pool, timeout_s: float) -> None:
    """Raise one of DATABASE_UNAVAILABLE_ERRORS unless Postgres answers and accepts writes."""
    async with pool.connection(timeout_s) as connection:
        await check_writable(connection)


async def check_writable(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raise one of DATABASE_UNAVAILABLE_ERRORS unless the connection's server accepts writes."""
    row = await (await connection.execute("show transaction_read_only")).fetchone()
    if row is None or row[0] != "off":
        raise psycopg.errors.ReadOnlySqlTransaction("the server accepts no writes")


async def _warn_without_time_limits(pool: Pool) -> None:
    """Log the time-outs that the connections behind a pooler lack; only the pooler or the role can set them there."""
    async with pool.connection() as connection:
        cursor = await connection.execute(SQL["missing_time_limits"], {"names": list(_TIME_LIMITS)})
        missing = [name for (name,) in await cursor.fetchall()]
    if missing:
        log.warning(
            "connections of the pooler have no time-outs; set them in its connect_query (docs/how-to/postgres.md)",
            missing=missing,
        )
