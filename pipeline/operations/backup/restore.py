"""Verify a backup, and restore it into a new database; `mailfold restore` and `backup --verify` call it.

The rows are restored in one transaction. The roles then make everything else from the log: no table says that any of it
was read, so that `dispatch` reads all acks before it sends anything, and `project` holds the conversions until it has
read all their results.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
import zstandard
from psycopg import sql

from pipeline.errors import DatabaseUnavailable, LogUnavailable, Refused, SchemaMismatch
from pipeline.operations.backup.contents import (
    OWNED_TABLES,
    PLACE_SHIFT,
    BackupEnd,
    BackupHeader,
    BackupPart,
    TableRows,
    TableStart,
    decode_part,
)
from pipeline.operations.backup.log_state import describe_difference, read_log_state
from pipeline.operations.backup.save import SQL, column_names
from pipeline.operations.backup.sealed_file import BackupUnreadable, read_parts, verify_checksum
from pipeline.runtime.postgres.conninfo import first_line
from pipeline.runtime.postgres.database import connect_session
from pipeline.runtime.postgres.schema import require_schema
from pipeline.runtime.secrets.secret_fingerprints import ADDRESSES, fingerprints_of
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from projections.feature_level import NEWEST_LEVEL
from projections.migrate import load_migrations

Connection = psycopg.AsyncConnection[Any]
_REPLACED_TABLES: Final = frozenset(table.name for table in OWNED_TABLES if table.replaces)
NEW_DATABASE_TABLES: Final = ("public.schema_migrations", *_REPLACED_TABLES)
"""Tables in which a migrated database has rows before anybody has used it, or after a mere look at it."""
_NEW_DATABASE_HINT: Final = "create a new database, name it in DATABASE_URL, run `mailfold migrate`, then restore"


class BackupMismatch(Refused):
    """The backup can't be restored with this version or these settings."""


class VerifiedBackup(msgspec.Struct, frozen=True):
    """What a file contains whose checksum is right and which was decrypted to its end."""

    header: BackupHeader
    rows: dict[str, int]
    checksum: str


class RestoredBackup(msgspec.Struct, frozen=True):
    """What was restored."""

    header: BackupHeader
    rows: dict[str, int]
    log_note: str
    """How the log differs from what it was when the backup was made; empty if it only became longer."""


def verify_backup(path: Path, passphrase: str) -> VerifiedBackup:
    """Read a backup to its end. Raise BackupUnreadable and InvalidSettings."""
    try:
        checksum = verify_checksum(path)
        header, rows = None, {}
        for part in _read(path, passphrase):
            if isinstance(part, BackupHeader):
                header = part
            elif isinstance(part, BackupEnd):
                rows = part.rows
    except OSError as error:
        raise BackupUnreadable(f"{path} can't be read: {error.strerror or error}") from error
    assert header is not None
    return VerifiedBackup(header, rows, checksum)


async def restore_backup(
    settings: Settings, path: Path, passphrase: str, *, other_secret: bool = False
) -> RestoredBackup:
    """Restore a backup into the migrated, unused database of these settings, or change nothing.

    ``other_secret``: even if it was made under another secret. Raise BackupUnreadable, BackupMismatch,
    SchemaMismatch, DatabaseUnavailable and InvalidSettings.
    """
    verified = await asyncio.to_thread(verify_backup, path, passphrase)
    await require_schema(settings)
    _require_readable(verified.header)
    if not other_secret:
        _require_same_secret(verified.header, settings)
    is_written = False
    try:
        async with await connect_session(settings) as connection, connection.transaction():
            await _lock_tables(connection)
            await _require_unused(connection)
            rows = await _restore_tables(connection, _read(path, passphrase))
            if rows != verified.rows:
                raise BackupUnreadable(f"{path} has other rows than it says: {rows}, {verified.rows}")
            await connection.execute(SQL["shift_places"], {"shift": PLACE_SHIFT})
            await connection.execute(SQL["end_leases"])
            is_written = True
    except psycopg.OperationalError as error:
        if is_written:
            raise DatabaseUnavailable(
                "Postgres failed at the end, and either everything or nothing was restored. Repeat it: if it says that "
                f"the database is in use, everything was. {first_line(error)}"
            ) from error
        raise DatabaseUnavailable(f"Postgres failed, nothing was restored: {first_line(error)}") from error
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise BackupMismatch(f"Postgres does not take a row, nothing was restored: {first_line(error)}") from error
    return RestoredBackup(verified.header, rows, await _compare_log(verified.header, settings))


def _read(path: Path, passphrase: str) -> Iterator[BackupPart]:
    return (decode_part(data) for data in read_parts(path, passphrase))


def _require_readable(header: BackupHeader) -> None:
    known = {migration.name for migration in load_migrations()}
    if newer := sorted(set(header.migrations) - known):
        raise SchemaMismatch(
            f"the backup was made by Mailfold {header.version}, whose schema has {newer[-1]}: restore it with that "
            "version or a newer one"
        )
    if header.feature_level > NEWEST_LEVEL:
        raise SchemaMismatch(
            f"the backup was made at feature level {header.feature_level}, and this version knows {NEWEST_LEVEL}: "
            f"restore it with Mailfold {header.version} or newer"
        )


def _require_same_secret(header: BackupHeader, settings: Settings) -> None:
    given = fingerprints_of(secret_ring(settings))
    needed = [header.secrets[0], *(each for each in header.secrets if each.purpose == ADDRESSES)]
    if not set(needed) <= set(given):
        raise BackupMismatch(
            "the backup was made under other secrets, with which credentials are sealed and addresses hashed: set "
            "those in MAILFOLD_SECRET or MAILFOLD_SECRETS; if they are lost, restore with --other-secret, run "
            "`mailfold secrets accept`, and give every credential again"
        )


async def _lock_tables(connection: Connection) -> None:
    """Let nobody else write a row between the look at the tables and the end of the restoration."""
    names = [sql.Identifier(*table.name.split(".")) for table in OWNED_TABLES]
    await connection.execute(sql.SQL(SQL["lock_tables"]).format(sql.SQL(", ").join(names)))


async def _require_unused(connection: Connection) -> None:
    """Raise BackupMismatch where a table has a row that a migration did not write."""
    tables = [name for (name,) in await (await connection.execute(SQL["tables"])).fetchall()]
    used = []
    for name in tables:
        if name not in NEW_DATABASE_TABLES:
            query = sql.SQL(SQL["has_rows"]).format(sql.Identifier(*name.split(".")))
            row = await (await connection.execute(query)).fetchone()
            used += [name] if row is None or row[0] else []
    if used:
        more = f" and {len(used) - 1} more tables" if len(used) > 1 else ""
        raise BackupMismatch(f"the database is in use: {used[0]}{more} have rows; {_NEW_DATABASE_HINT}")


async def _restore_tables(connection: Connection, parts: Iterator[BackupPart]) -> dict[str, int]:
    """Write all tables of the file; return the number of rows of each."""
    rows: dict[str, int] = {}
    await _take(parts)  # the header
    part = await _take(parts)
    while isinstance(part, TableStart):
        name = part.name
        rows[name], part = await _restore_table(connection, part, parts)
    return rows


async def _restore_table(
    connection: Connection, start: TableStart, parts: Iterator[BackupPart]
) -> tuple[int, BackupPart]:
    """Write one table; return the number of its rows and the part after them."""
    await _require_columns(connection, start)
    name = sql.Identifier(*start.name.split("."))
    if start.name in _REPLACED_TABLES:
        await connection.execute(sql.SQL("truncate {}").format(name))
    columns = sql.SQL(", ").join(map(sql.Identifier, start.columns))
    async with connection.cursor() as cursor:
        async with cursor.copy(sql.SQL("copy {} ({}) from stdin").format(name, columns)) as copy:
            while isinstance(part := await _take(parts), TableRows):
                await copy.write(zstandard.ZstdDecompressor().decompress(part.data))
        return cursor.rowcount, part


async def _take(parts: Iterator[BackupPart]) -> BackupPart:
    """Return the next part; it is read and decrypted in a thread."""
    return await asyncio.to_thread(next, parts)


async def _require_columns(connection: Connection, start: TableStart) -> None:
    """Raise SchemaMismatch where a table, or one of its columns, is not in this version's schema any more."""
    if missing := sorted(set(start.columns) - set(await column_names(connection, start.name))):
        raise SchemaMismatch(
            f"{start.name} has no column {missing[0]} any more: restore the backup with the version of Mailfold that "
            "made it (`mailfold backup --verify` names it), then upgrade"
        )


async def _compare_log(header: BackupHeader, settings: Settings) -> str:
    if header.log is None:
        return "the backup does not say where the log ended, because Kafka did not answer when it was made"
    if not settings.kafka_bootstrap:
        return "KAFKA_BOOTSTRAP is not set, so the log was not compared"
    try:
        return describe_difference(header.log, await read_log_state(settings))
    except LogUnavailable as error:
        return f"the log was not compared: {error}"
