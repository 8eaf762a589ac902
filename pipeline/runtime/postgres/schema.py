"""Migrate the database, finish an upgrade, and refuse a database that is not migrated.

`mailfold migrate`, `mailfold upgrade finish` and the embedded stack migrate; whoever opens a pool checks.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psycopg

from pipeline.errors import DatabaseUnavailable, SchemaMismatch
from pipeline.runtime.postgres.conninfo import APPLICATION_NAME, first_line, is_behind_pooler, session_conninfo
from pipeline.settings import Settings
from projections import feature_level
from projections.migrate import SchemaBusy, SchemaTooNew, UpgradeUnfinished, compare_schema, migrate


class FinishedUpgrade(msgspec.Struct, frozen=True):
    """What `mailfold upgrade finish` changed."""

    level_before: int
    level: int
    migrations: tuple[str, ...]


async def require_schema(settings: Settings) -> None:
    """Raise SchemaMismatch unless this version can work with the database as it is.

    Connects outside a pool, which would retry without reporting what is wrong.
    """
    async with _connected(settings) as connection:
        difference = await compare_schema(connection)
        difference.require_not_newer()
        if difference.needed:
            more = f" and {len(difference.needed) - 1} more" if len(difference.needed) > 1 else ""
            raise SchemaMismatch(f"the database lacks {difference.needed[0]}{more}: run `mailfold migrate`")
        level = await feature_level.read_level(connection)
        if level > feature_level.NEWEST_LEVEL:
            raise SchemaMismatch(
                f"the upgrade to feature level {level} is finished, and this process knows level "
                f"{feature_level.NEWEST_LEVEL}: upgrade this process"
            )


async def migrate_database(settings: Settings) -> list[str]:
    """Apply the migrations that are missing, except contracts, and return their names. Raise SchemaMismatch."""
    async with _connected(settings) as connection:
        return await migrate(connection)


async def newest_migration(settings: Settings) -> str:
    """Return the name of the last migration that this version has and the database, too; empty for none."""
    async with _connected(settings) as connection:
        applied = (await compare_schema(connection)).applied
        return applied[-1] if applied else ""


async def read_feature_level(settings: Settings) -> int:
    """Return the level up to which processes may write.

    Raise DatabaseUnavailable, InvalidSettings and psycopg.Error.
    """
    async with _connected(settings) as connection:
        return await feature_level.read_level(connection)


async def finish_upgrade(settings: Settings, *, force: bool) -> FinishedUpgrade:
    """Apply the contracts and raise the feature level.

    Raise SchemaMismatch where `mailfold migrate` was not run, or where processes of other versions are connected to the
    database, unless ``force`` is given.
    """
    async with _connected(settings) as connection:
        difference = await compare_schema(connection)
        difference.require_not_newer()
        if difference.needed:
            raise SchemaMismatch(f"the database lacks {difference.needed[0]}: run `mailfold migrate` first")
        if not force and (others := await other_processes(connection)):
            raise SchemaMismatch(
                f"{others}: upgrade these processes first, or give --force if they are none of Mailfold's"
            )
        applied = await migrate(connection, finish=True)
        before = await feature_level.raise_level(connection)
        return FinishedUpgrade(before, await feature_level.read_level(connection), tuple(applied))


async def other_processes(connection: psycopg.AsyncConnection[Any]) -> str:
    """Return which other versions are connected to the database, in words for an operator; empty for none."""
    others = await feature_level.other_versions(connection, APPLICATION_NAME)
    if not others:
        return ""
    names = ", ".join(f"{name.removeprefix('mailfold/') or '0.1.0 or another program'}" for name, _ in others)
    return f"{sum(number for _, number in others)} connections of other versions are open ({names})"


@contextlib.asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Open a connection; raise errors that tell an operator what to do."""
    try:
        connection = await psycopg.AsyncConnection.connect(session_conninfo(settings), autocommit=True)
    except psycopg.OperationalError as error:
        name = "DATABASE_SESSION_URL" if is_behind_pooler(settings) else "DATABASE_URL"
        raise DatabaseUnavailable(f"Postgres at {name} does not answer: {first_line(error)}") from error
    async with connection:
        try:
            yield connection
        except (SchemaTooNew, SchemaBusy, UpgradeUnfinished) as error:
            raise SchemaMismatch(str(error)) from None
