"""Compress what a process appends to the log, from the feature level on at which every process can read it.

Processes of version 0.1.0 lack the codec. Readers are upgraded first, so a process compresses once `mailfold upgrade
finish` has raised the level; a database that was made by a newer version has it from the start. Data on the log stays
as it was written; readers read both.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatch

from pipeline.errors import MailfoldError
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.tasks import cancel_tasks
from projections.feature_level import COMPRESSED_LOG_LEVEL

CHECK_INTERVAL_S: Final = 60.0
"""Seconds between two looks at the feature level, until it is high enough."""
CHECK_TIMEOUT_S: Final = 5.0
_CODECS: Final = {False: DefaultRecordBatch.CODEC_NONE, True: DefaultRecordBatch.CODEC_ZSTD}

ReadLevel = Callable[[], Awaitable[int]]
"""A function that returns the feature level. Raises psycopg.Error and MailfoldError."""
log = get_logger(__name__)


class LogCompression:
    """Whether this process compresses its batches; its producers follow when that changes."""

    def __init__(self, *, is_on: bool = False) -> None:
        self.is_on = is_on

    def apply_to(self, producer: AIOKafkaProducer) -> None:
        """Let this producer compress each batch that it begins while compression is on.

        The limit of a batch's size counts before compression, so that no batch of ours unpacks to more.
        """
        accumulator = producer._message_accumulator
        create_builder = accumulator.create_builder

        def create_compressed_builder(*serializers: Any, **options: Any) -> Any:
            accumulator._compression_type = _CODECS[self.is_on]
            return create_builder(*serializers, **options)

        accumulator.create_builder = create_compressed_builder

    async def check(self, read: ReadLevel) -> None:
        """Turn compression on if the feature level allows it."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                self.is_on = await read() >= COMPRESSED_LOG_LEVEL
        except (psycopg.Error, MailfoldError, TimeoutError) as error:
            log.warning("feature level unknown, records are not compressed", error=type(error).__name__)

    async def watch(self, read: ReadLevel) -> None:
        """Check now and then until compression is on; it stays on, because a level is never lowered."""
        while not self.is_on:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.check(read)


@contextlib.asynccontextmanager
async def open_compression(read: ReadLevel) -> AsyncIterator[LogCompression]:
    """Yield the compression that the feature level allows now, and follow the level until the end."""
    compression = LogCompression()
    await compression.check(read)
    watching = asyncio.create_task(compression.watch(read), name="watch the feature level")
    try:
        yield compression
    finally:
        await cancel_tasks([watching])
