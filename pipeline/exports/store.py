"""Keep exports and their files in Postgres, so that any gateway can continue, show and serve them.

The routes and the runner of exports call it.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pipeline.errors import LeaseLost
from pipeline.exports.request import ExportChunk, ExportRequest
from pipeline.runtime.postgres.database import Pool
from projections.email_listing import EmailPosition
from projections.sql import SqlQueries
from projections.text import storable_text
from topics.record import Millis

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
MAX_OPEN_EXPORTS: Final = 10
"""Exports that a tenant may have pending or running."""
LEASE_S: Final = 60.0
KEPT_DAYS: Final = 7
"""Days for which a finished file can be downloaded."""
REMEMBERED_DAYS: Final = 30
"""Days after that for which it is known that there was one."""
MAX_ERROR_CHARS: Final = 500
_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE_REQUEST: Final = msgspec.json.Decoder(ExportRequest).decode
_DECODE_POSITION: Final = msgspec.json.Decoder(EmailPosition).decode


class StoredExport(msgspec.Struct, frozen=True, kw_only=True):
    """An export and how far it is."""

    export_id: str
    request: ExportRequest | None
    """None after it expired."""
    state: str
    emails: int
    rows: int
    bytes: int
    checksum: str
    error: str
    created_at: Millis
    finished_at: Millis | None
    expires_at: Millis | None


class ClaimedExport(NamedTuple):
    """An export that this process makes."""

    export_id: str
    token: str
    request: ExportRequest
    position: EmailPosition | None
    chunks: int
    bytes: int


class ExportStore:
    """The exports of all tenants."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, export_id: str, request: ExportRequest) -> bool:
        """Add an export; return False if the tenant has too many open ones."""
        values = {
            "export_id": export_id,
            "tenant": request.tenant,
            "request": _ENCODE(request),
            "as_of": request.as_of,
            "max_open": MAX_OPEN_EXPORTS,
        }
        async with self._pool.connection() as connection:
            return await (await connection.execute(SQL["add"], values)).fetchone() is not None

    async def find(self, tenant: str, export_id: str) -> StoredExport | None:
        """Return a tenant's export; None if it is unknown."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(SQL["find"], {"export_id": export_id, "tenant": tenant})
            row = await cursor.fetchone()
        if row is None:
            return None
        request = _DECODE_REQUEST(bytes(row[1])) if row[1] else None
        names = StoredExport.__struct_fields__[2:]
        return StoredExport(export_id=row[0], request=request, **dict(zip(names, row[2:], strict=True)))

    async def claim(self, token: str) -> ClaimedExport | None:
        """Claim the oldest export that nobody makes; None if there is none."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(SQL["claim"], {"token": token, "lease_s": LEASE_S})).fetchone()
        if row is None:
            return None
        export_id, request, position, chunks, size = row
        start = None if position is None else _DECODE_POSITION(bytes(position))
        return ClaimedExport(export_id, token, _DECODE_REQUEST(bytes(request)), start, chunks, size)

    async def renew(self, export: ClaimedExport) -> None:
        """Extend the lease. Raises LeaseLost."""
        values = {"export_id": export.export_id, "token": export.token, "lease_s": LEASE_S}
        async with self._pool.connection() as connection:
            if not (await connection.execute(SQL["renew"], values)).rowcount:
                raise LeaseLost

    async def release(self, export: ClaimedExport) -> None:
        """End the lease, so that another process continues the export at once."""
        async with self._pool.connection() as connection:
            await connection.execute(SQL["release"], {"export_id": export.export_id, "token": export.token})

    async def add_chunk(self, export: ClaimedExport, nth: int, chunk: ExportChunk) -> None:
        """Store the next chunk and the position after it in one transaction. Raises LeaseLost."""
        values = {
            "export_id": export.export_id,
            "token": export.token,
            "lease_s": LEASE_S,
            "nth": nth,
            "emails": chunk.emails,
            "rows": chunk.rows,
            "size": len(chunk.data),
            "position": None if chunk.position is None else _ENCODE(chunk.position),
            "data": chunk.data,
        }
        async with self._pool.connection() as connection, connection.transaction():
            if not (await connection.execute(SQL["add_progress"], values)).rowcount:
                raise LeaseLost
            await connection.execute(SQL["add_chunk"], values)

    async def finish(self, export: ClaimedExport, checksum: str, error: str = "") -> None:
        """End an export that is complete, or has failed with an error."""
        values = {
            "export_id": export.export_id,
            "token": export.token,
            "state": "failed" if error else "done",
            "checksum": checksum,
            "error": storable_text(error[:MAX_ERROR_CHARS]),
            "days": KEPT_DAYS,
        }
        async with self._pool.connection() as connection:
            await connection.execute(SQL["finish"], values)

    async def read(self, export_id: str, first_byte: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a file from ``first_byte`` on, chunk by chunk; all of them, or ``length``."""
        nth, skipped = await self._chunk_at(export_id, first_byte)
        left = length
        while left is None or left > 0:
            async with self._pool.connection() as connection:
                values = {"export_id": export_id, "nth": nth}
                row = await (await connection.execute(SQL["chunk"], values)).fetchone()
            if row is None:
                return
            data = bytes(row[0])[skipped:]
            data = data if left is None else data[:left]
            left = None if left is None else left - len(data)
            nth, skipped = nth + 1, 0
            yield data

    async def _chunk_at(self, export_id: str, first_byte: int) -> tuple[int, int]:
        """Return the number of the chunk with a byte of the file, and the place of the byte in it."""
        async with self._pool.connection() as connection:
            values = {"export_id": export_id, "first_byte": first_byte}
            row = await (await connection.execute(SQL["chunk_at"], values)).fetchone()
        return (0, 0) if row is None else (row[0], first_byte - row[1])
