"""Make a backup: what Postgres owns, in one snapshot and one encrypted file; `mailfold backup` calls it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
import zstandard
from psycopg import sql

from pipeline.errors import DatabaseUnavailable, LogUnavailable, PermanentError
from pipeline.operations.backup.contents import (
    OWNED_TABLES,
    BackupEnd,
    BackupHeader,
    LogState,
    OwnedTable,
    TableRows,
    TableStart,
    encode_part,
)
from pipeline.operations.backup.log_state import read_log_state
from pipeline.operations.backup.sealed_file import SealedWriter
from pipeline.runtime.postgres.conninfo import first_line, program_version
from pipeline.runtime.postgres.database import connect_session
from pipeline.runtime.postgres.schema import require_schema
from pipeline.runtime.secrets.secret_fingerprints import fingerprints_of
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from projections.feature_level import read_level
from projections.migrate import compare_schema
from projections.sql import SqlQueries

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
PART_BYTES: Final = 1_000_000
"""Bytes of rows in one part, before compression; a part ends with the row that passes it."""

Connection = psycopg.AsyncConnection[Any]


class BackupNotWritten(PermanentError):
    """The backup could not be written to its file."""


class SavedBackup(msgspec.Struct, frozen=True):
    """What was saved."""

    header: BackupHeader
    rows: dict[str, int]
    file_bytes: int
    checksum: str


async def save_backup(settings: Settings, path: Path, passphrase: str) -> SavedBackup:
    """Save everything that Postgres owns in a new file; an existing one of that name is replaced at the end.

    Raise BackupNotWritten, InvalidSettings, DatabaseUnavailable and SchemaMismatch.
    """
    await require_schema(settings)
    log_state = await _log_state_if_known(settings)
    try:
        async with await connect_session(settings) as connection, connection.transaction():
            await connection.execute(SQL["snapshot"])
            with SealedWriter(path, passphrase) as writer:
                header = await _make_header(connection, settings, log_state)
                writer.write_part(encode_part(header))
                rows = {table.name: await _save_table(connection, table, writer) for table in OWNED_TABLES}
                writer.write_part(encode_part(BackupEnd(rows)), last=True)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"Postgres failed during the backup, repeat it: {first_line(error)}") from error
    except OSError as error:
        raise BackupNotWritten(f"{path} could not be written: {error.strerror or error}; nothing was left") from error
    return SavedBackup(header, rows, writer.written_bytes, writer.checksum)


async def _log_state_if_known(settings: Settings) -> LogState | None:
    if not settings.kafka_bootstrap:
        return None
    try:
        return await read_log_state(settings)
    except LogUnavailable:
        return None


async def _make_header(connection: Connection, settings: Settings, log_state: LogState | None) -> BackupHeader:
    row = await (await connection.execute(SQL["moment"])).fetchone()
    assert row is not None
    return BackupHeader(
        version=program_version(),
        made_at=row[0],
        migrations=(await compare_schema(connection)).applied,
        feature_level=await read_level(connection),
        secrets=tuple(fingerprints_of(secret_ring(settings))),
        log=log_state,
    )


async def _save_table(connection: Connection, table: OwnedTable, writer: SealedWriter) -> int:
    """Write a table's rows; return how many."""
    columns = await column_names(connection, table.name)
    writer.write_part(encode_part(TableStart(table.name, columns)))
    compressor = zstandard.ZstdCompressor()
    rows = 0
    async for block, count in _copied_blocks(connection, table, columns):
        writer.write_part(encode_part(TableRows(compressor.compress(block))))
        rows += count
    return rows


async def column_names(connection: Connection, table: str) -> tuple[str, ...]:
    """Return the names of a table's columns; none if there is no such table."""
    found = await (await connection.execute(SQL["columns"], table.split("."))).fetchall()
    return tuple(name for (name,) in found)


async def _copied_blocks(
    connection: Connection, table: OwnedTable, columns: tuple[str, ...]
) -> AsyncIterator[tuple[bytes, int]]:
    """Yield a table's rows as COPY writes them, in blocks of about PART_BYTES, each with its number of rows."""
    query = sql.SQL("copy (select {} from {} where {}) to stdout").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(*table.name.split(".")), sql.SQL(table.rows)
    )
    block = bytearray()
    async with connection.cursor().copy(query) as copy:
        async for row in copy:
            block += row
            if len(block) >= PART_BYTES:
                yield bytes(block), block.count(b"\n")
                block.clear()
    if block:
        yield bytes(block), block.count(b"\n")
