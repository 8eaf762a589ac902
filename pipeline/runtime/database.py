"""Open a pool of Postgres connections to a migrated database; bootstrap and commands call it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pipeline.errors import DatabaseUnavailable, InvalidSettings
from pipeline.runtime.schema import APPLICATION_NAME, require_schema
from pipeline.settings import Settings

DATABASE_UNAVAILABLE_ERRORS: Final = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
)
"""Errors after which to try again: Postgres does not answer, or it ended a transaction that was idle for too long."""

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """Set a time-out, so that a process frozen in the middle of a transaction does not keep its row locks."""
    await connection.execute("set idle_in_transaction_session_timeout = '10s'")
    await connection.commit()


@contextlib.asynccontextmanager
async def open_database(settings: Settings, *, size: int = 4) -> AsyncIterator[Pool]:
    """Open a pool of at most ``size`` connections to a migrated database; close it at the end.

    Raise InvalidSettings for a missing or invalid URL, DatabaseUnavailable where Postgres does not answer, and
    SchemaMismatch for a schema that is older or newer than this version needs.
    """
    url = settings.database_url.get_secret_value()
    if not url:
        raise InvalidSettings(
            "DATABASE_URL: missing; `mailfold up` starts a Postgres of its own, other roles need yours"
        )
    pool: Pool = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        open=False,
        timeout=5,
        configure=_configure,
        kwargs={"connect_timeout": 5, "application_name": APPLICATION_NAME},
    )
    try:
        await require_schema(settings)
        await pool.open(wait=True, timeout=10)
    except (psycopg.OperationalError, PoolTimeout) as error:
        await pool.close()
        raise DatabaseUnavailable(f"Postgres at DATABASE_URL does not answer: {str(error).splitlines()[0]}") from error
    try:
        yield pool
    finally:
        await pool.close()
