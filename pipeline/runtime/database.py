"""A pool of Postgres connections; every role migrates before its first query."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pipeline.errors import DatabaseUnavailable, InvalidSettings
from pipeline.settings import Settings
from projections.migrate import migrate

DATABASE_UNAVAILABLE_ERRORS: Final = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
)
"""Postgres does not answer, or ended a transaction of ours in which we stood still for too long: try again."""

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


async def _migrate(url: str) -> None:
    """On a connection of its own: a pool would try again in silence, and say nothing of what is wrong."""
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=5)
    except psycopg.ProgrammingError:
        # Its message repeats the text, and a password with it.
        raise InvalidSettings(
            "DATABASE_URL: not a libpq URL, such as postgresql://user:password@host:5432/name"
        ) from None
    async with connection:
        await migrate(connection)


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """A process that is frozen in the middle of a transaction must not keep its successors from the rows it locked."""
    await connection.execute("set idle_in_transaction_session_timeout = '10s'")
    await connection.commit()


@contextlib.asynccontextmanager
async def open_database(settings: Settings, *, size: int = 4) -> AsyncIterator[Pool]:
    """An open pool on a migrated database.

    Raises BadSettings for an URL that isn't one, DatabaseUnavailable where nobody answers.
    """
    url = settings.database_url.get_secret_value()
    if not url:
        raise InvalidSettings(
            "DATABASE_URL: missing; `mailfold up` starts a Postgres of its own, other roles need yours"
        )
    pool: Pool = AsyncConnectionPool(
        url, min_size=1, max_size=size, open=False, timeout=5, configure=_configure, kwargs={"connect_timeout": 5}
    )
    try:
        await _migrate(url)
        await pool.open(wait=True, timeout=10)
    except (psycopg.OperationalError, PoolTimeout) as error:
        await pool.close()
        raise DatabaseUnavailable(f"Postgres at DATABASE_URL does not answer: {str(error).splitlines()[0]}") from error
    try:
        yield pool
    finally:
        await pool.close()
