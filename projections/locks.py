"""Advisory locks of Postgres for what only one process may do at a time, such as a migration or a rebuild.

A lock belongs to a session and ends with it. A key is a number, or a name that Postgres hashes; the two kinds never
collide.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, LiteralString

import psycopg

Connection = psycopg.AsyncConnection[Any]
LockKey = int | str

_WAIT: Final[dict[type, LiteralString]] = {
    int: "select pg_advisory_lock(%s)",
    str: "select pg_advisory_lock(hashtext(%s), 0)",
}
_TRY: Final[dict[type, LiteralString]] = {
    int: "select pg_try_advisory_lock(%s)",
    str: "select pg_try_advisory_lock(hashtext(%s), 0)",
}
_UNLOCK: Final[dict[type, LiteralString]] = {
    int: "select pg_advisory_unlock(%s)",
    str: "select pg_advisory_unlock(hashtext(%s), 0)",
}


async def lock(connection: Connection, key: LockKey) -> None:
    """Take the lock for this session, waiting for it."""
    await connection.execute(_WAIT[type(key)], (key,))


async def try_lock(connection: Connection, key: LockKey) -> bool:
    """Take the lock for this session unless another session has it; return whether it was taken."""
    row = await (await connection.execute(_TRY[type(key)], (key,))).fetchone()
    return row is not None and bool(row[0])


async def unlock(connection: Connection, key: LockKey) -> None:
    """Release the lock before the session ends."""
    await connection.execute(_UNLOCK[type(key)], (key,))


@contextlib.asynccontextmanager
async def session_lock(conninfo: str, key: LockKey, *, wait: bool = True) -> AsyncIterator[bool]:
    """Hold the lock on a connection of its own; it ends with that connection in any case.

    Yields whether it was taken: without ``wait`` another session may have it.
    """
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    async with connection:
        if wait:
            await lock(connection, key)
            yield True
        else:
            yield await try_lock(connection, key)
