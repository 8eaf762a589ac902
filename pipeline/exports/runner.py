"""Make exports one after the other; every gateway runs it beside its requests.

A gateway that dies loses nothing: another continues after the last stored chunk once the lease is over.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from pipeline.errors import LeaseLost
from pipeline.exports.chunks import ReadHistory, export_chunks
from pipeline.exports.request import ExportChunk
from pipeline.exports.store import LEASE_S, REMEMBERED_DAYS, SQL, ClaimedExport, ExportStore
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.postgres.retention import ExpiringRows
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import cancel_tasks, run_unless
from projections.email_queries import EmailQueryTimeout

POLL_INTERVAL_S: Final = 2.0
RENEW_INTERVAL_S: Final = LEASE_S / 3
FILE_MAX_BYTES: Final = 10_000_000_000
"""Bytes of a file in Postgres, at most; `mailfold export` writes larger ones to a disk."""
TOO_LARGE: Final = "over 10 GB; ask for a shorter time, or run `mailfold export`"
TOO_SLOW: Final = "a page takes more than 10 minutes; add a shorter time of acceptance"

logger = get_logger(__name__)

EXPIRING: Final = (
    ExpiringRows("exports.chunks", SQL["expire_files"], {}),
    ExpiringRows("exports.jobs", SQL["expire_jobs"], {"days": REMEMBERED_DAYS}),
)


class FileTooLarge(Exception):
    """The file of an export is larger than Postgres should keep."""


class ExportRunner:
    """Makes the exports that nobody else makes, until ``rt.stop``."""

    def __init__(self, rt: Runtime, read: ReadHistory) -> None:
        self._rt = rt
        self._read = read
        self._store = ExportStore(rt.pool)

    async def run(self) -> None:
        """Claim and make exports until the role stops; an outage of Postgres is waited for."""
        while not self._rt.stop.is_set():
            try:
                export = await self._store.claim(self._rt.new_id())
                if export is None:
                    await sleep_unless(self._rt.stop, POLL_INTERVAL_S)
                else:
                    await self._make_or_release(export)
            except LeaseLost:
                logger.warning("export continued by another gateway")
            except DATABASE_UNAVAILABLE_ERRORS as error:
                logger.warning("export waits for Postgres", error=type(error).__name__)
                await sleep_unless(self._rt.stop, POLL_INTERVAL_S)

    async def _make_or_release(self, export: ClaimedExport) -> None:
        try:
            await run_unless(self._rt.stop, self._make(export))
        finally:
            if self._rt.stop.is_set():
                await self._store.release(export)

    async def _make(self, export: ClaimedExport) -> None:
        error = checksum = ""
        try:
            if export.chunks == 0 or export.position is not None:
                await self._store_chunks(export)
            checksum = await self._checksum(export)
        except EmailQueryTimeout:
            error = TOO_SLOW
        except FileTooLarge:
            error = TOO_LARGE
        except (LeaseLost, *DATABASE_UNAVAILABLE_ERRORS):
            raise
        except Exception as failure:
            # Whatever it is: another attempt would fail in the same way, and other exports wait behind this one.
            logger.exception("export failed", export_id=export.export_id)
            error = f"an error of ours: {type(failure).__name__}"
        await self._store.finish(export, checksum, error)
        logger.info("export finished", export_id=export.export_id, failed=bool(error))

    async def _store_chunks(self, export: ClaimedExport) -> None:
        nth, size = export.chunks, export.bytes
        chunks = export_chunks(self._read, export.request, export.position)
        while (chunk := await self._next_chunk(export, chunks)) is not None:
            size += len(chunk.data)
            if size > FILE_MAX_BYTES:
                raise FileTooLarge
            await self._store.add_chunk(export, nth, chunk)
            nth += 1

    async def _next_chunk(self, export: ClaimedExport, chunks: AsyncIterator[ExportChunk]) -> ExportChunk | None:
        """Return the next chunk; None after the last. Extend the lease while it is made."""
        making = asyncio.ensure_future(anext(chunks, None))
        try:
            while not (await asyncio.wait([making], timeout=RENEW_INTERVAL_S))[0]:
                await self._store.renew(export)
        finally:
            await cancel_tasks([making])
        return making.result()

    async def _checksum(self, export: ClaimedExport) -> str:
        digest = hashlib.sha256()
        async for data in self._store.read(export.export_id):
            digest.update(data)
            await self._store.renew(export)
        return digest.hexdigest()
