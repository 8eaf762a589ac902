"""Bring a database to this program's schema, and compare the two.

`mailfold migrate`, `mailfold upgrade finish` and the embedded stack do the first; every other process only compares.

Each file of `migrations/` is one transaction, and *expands* the schema: processes of the version before work with it,
too. A comment at the beginning of the file says where that is not so:

``-- migrate: contract``
    It removes what the version before uses, so that it is applied when no process of that version runs any more: by
    `mailfold upgrade finish`. From then on older versions refuse the database.
``-- migrate: outside a transaction``
    Each statement, which ends with a semicolon at the end of a line, is executed alone, as ``create index
    concurrently`` must be. Such a file may have been applied in part before; so it drops first what it creates.

docs/how-to/upgrade.md has the rules for writing them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections import feature_level, locks

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK_KEY = 0x6D61696C  # "mail"
_LOCK_INTERVAL_S: Final = 0.2
"""Seconds between two attempts to become the only process that migrates. It is not waited for in Postgres: a session
that waits there has a snapshot, and ``create index concurrently`` waits until all older snapshots are gone."""
_LOCK_TIMEOUT: Final = "2s"
"""Time for which a statement waits for a table. All who need the table wait behind it, so it gives up soon."""
MAX_LOCK_ATTEMPTS: Final = 30
_RETRY_PAUSE_S: Final = 1.0
_CONTRACT, _OUTSIDE = "-- migrate: contract\n", "-- migrate: outside a transaction\n"

Connection = psycopg.AsyncConnection[Any]


class SchemaTooNew(Exception):
    """A newer version has finished its upgrade of the database, which this version can therefore not use."""


class SchemaBusy(Exception):
    """A migration did not get the lock of a table in time."""


class UpgradeUnfinished(Exception):
    """An earlier version's upgrade must be finished first."""


class Migration(msgspec.Struct, frozen=True):
    """A file of `migrations/`."""

    name: str
    text: str

    @property
    def is_contract(self) -> bool:
        """Return whether processes of the version before cannot work with its result."""
        return _CONTRACT in self.text

    @property
    def is_outside(self) -> bool:
        """Return whether its statements are executed outside a transaction."""
        return _OUTSIDE in self.text


class SchemaDifference(msgspec.Struct, frozen=True):
    """How a database's schema differs from this program's."""

    missing: tuple[Migration, ...]
    """Files that were not applied, in order."""
    applied: tuple[str, ...] = ()
    """Names of applied files that this version has."""
    unknown: tuple[str, ...] = ()
    """Names of applied files that only a newer version has."""
    is_too_new: bool = False
    """Whether one of the unknown ones is a contract."""
    is_empty: bool = False
    """Whether nothing was ever applied."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Return the names of the missing files without which this version cannot work."""
        return tuple(migration.name for migration in self.missing if not migration.is_contract)

    def require_not_newer(self) -> None:
        """Raise SchemaTooNew if this version cannot work with the database."""
        if self.is_too_new:
            raise SchemaTooNew(f"the database has {self.unknown[-1]}, of a newer version; upgrade this process")


async def compare_schema(connection: Connection) -> SchemaDifference:
    """Return how the database differs from this program's schema. The connection is in autocommit mode."""
    migrations = load_migrations()
    try:
        # As JSON, because the column `contract` is missing where a version without it migrated last.
        query = "select name, coalesce((to_jsonb(m) ->> 'contract')::boolean, false) from public.schema_migrations m"
        applied: dict[str, bool] = dict(await (await connection.execute(query)).fetchall())
    except psycopg.errors.UndefinedTable:
        return SchemaDifference(migrations, is_empty=True)
    known = {migration.name for migration in migrations}
    unknown = tuple(sorted(applied.keys() - known))
    return SchemaDifference(
        tuple(migration for migration in migrations if migration.name not in applied),
        tuple(sorted(applied.keys() & known)),
        unknown,
        any(applied[name] for name in unknown),
        not applied,
    )


def load_migrations() -> tuple[Migration, ...]:
    """Return all files of `migrations/`, in order."""
    return tuple(Migration(path.name, path.read_text(encoding="utf-8")) for path in sorted(MIGRATIONS.glob("*.sql")))


async def migrate(connection: Connection, *, finish: bool = False) -> list[str]:
    """Apply the files that are missing, in order, and return their names; contracts only with ``finish``.

    An empty database gets all, and the newest feature level: no older process uses it. The connection is in autocommit
    mode. Another process that migrates is waited for.
    Raise SchemaTooNew, UpgradeUnfinished, and SchemaBusy.
    """
    applied: list[str] = []
    async with _only_migrator(connection):
        await connection.execute("create table if not exists public.schema_migrations (name text primary key)")
        await connection.execute(
            "alter table public.schema_migrations add column if not exists contract boolean not null default false"
        )
        difference = await compare_schema(connection)
        difference.require_not_newer()
        left_out = ""
        for migration in difference.missing:
            if migration.is_contract and not finish and not difference.is_empty:
                left_out = migration.name
                continue
            if left_out:
                raise UpgradeUnfinished(
                    f"{left_out} must be applied before {migration.name}: run `mailfold upgrade finish` of the version "
                    "before"
                )
            await _apply(connection, migration)
            applied.append(migration.name)
        if difference.is_empty:
            await feature_level.raise_level(connection)
    return applied


@contextlib.asynccontextmanager
async def _only_migrator(connection: Connection) -> AsyncIterator[None]:
    """Hold the lock of migrations, with a limit for the time that a statement waits for a table."""
    await _become_migrator(connection)
    await connection.execute("select set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
    try:
        yield
    finally:
        await connection.execute("reset lock_timeout")
        await locks.unlock(connection, _MIGRATION_LOCK_KEY)


async def _become_migrator(connection: Connection) -> None:
    """Wait until this is the only process that migrates."""
    while not await locks.try_lock(connection, _MIGRATION_LOCK_KEY):
        await asyncio.sleep(_LOCK_INTERVAL_S)


async def _apply(connection: Connection, migration: Migration) -> None:
    """Apply one file, again and again while others hold the tables that it needs. Raise SchemaBusy."""
    reason = ""
    for _ in range(MAX_LOCK_ATTEMPTS):
        try:
            await (_apply_outside if migration.is_outside else _apply_inside)(connection, migration)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            reason = next(iter(str(error).splitlines()), "")
            # A process of version 0.1.0 that starts waits in Postgres for the lock of migrations, with a snapshot for
            # which `create index concurrently` waits in turn: let it pass.
            await locks.unlock(connection, _MIGRATION_LOCK_KEY)
            await asyncio.sleep(_RETRY_PAUSE_S)
            await _become_migrator(connection)
            if migration.name in (await compare_schema(connection)).applied:
                return
        else:
            return
    raise SchemaBusy(
        f"{migration.name} did not get its tables in {MAX_LOCK_ATTEMPTS} attempts ({reason}); it is not "
        "applied. Long transactions hold them: see pg_stat_activity, and run it again"
    )


async def _apply_inside(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await _record(connection, migration)
        await connection.execute(migration.text.encode())


async def _apply_outside(connection: Connection, migration: Migration) -> None:
    try:
        for statement in migration.text.split(";\n"):
            if statement.strip():
                await connection.execute(statement.encode())
    finally:
        await connection.execute("reset search_path")
    await _record(connection, migration)


async def _record(connection: Connection, migration: Migration) -> None:
    values = (migration.name, migration.is_contract)
    await connection.execute("insert into public.schema_migrations (name, contract) values (%s, %s)", values)
