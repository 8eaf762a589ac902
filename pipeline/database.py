"""A pool of Postgres connections; every role migrates before its first query."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pipeline.errors import BadSettings, DatabaseUnavailable
from pipeline.settings import Settings
from projections.migrate import migrate

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


@contextlib.asynccontextmanager
async def database(settings: Settings, *, size: int = 4) -> AsyncIterator[Pool]:
    """An open pool on a migrated database.

    Raises BadSettings for an URL that isn't one, DatabaseUnavailable where nobody answers.
    """
    url = settings.database_url.get_secret_value()
    if not url:
        raise BadSettings("DATABASE_URL: missing; `mailfold up` starts a Postgres of its own, other roles need yours")
    pool: Pool = AsyncConnectionPool(
        url, min_size=1, max_size=size, open=False, timeout=5, kwargs={"connect_timeout": 5}
    )
    try:
        await pool.open(wait=True, timeout=10)
        async with pool.connection() as connection:
            await migrate(connection)
    except psycopg.ProgrammingError as error:
        await pool.close()
        raise BadSettings(f"DATABASE_URL: {error}") from error
    except (psycopg.OperationalError, PoolTimeout) as error:
        await pool.close()
        raise DatabaseUnavailable(f"Postgres at DATABASE_URL does not answer: {error}") from error
    try:
        yield pool
    finally:
        await pool.close()
