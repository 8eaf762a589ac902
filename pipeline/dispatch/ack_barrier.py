"""Hold back the jobs of a dispatcher until the acks that were on the log at its start are in the table of jobs.

A database that was restored, or a standby that took over and lagged, has jobs as pending that were done since: only
their acks on the log say so. The dispatcher that leads the intake reads them; every dispatcher waits for it here.
"""

import asyncio
from datetime import datetime
from typing import Final

from aiokafka.errors import KafkaError

from pipeline.dispatch.intake import SQL
from pipeline.errors import LogUnavailable
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import discover_partitions
from pipeline.runtime.observing.logs import get_logger
from topics.registry import PROVIDER_ACKS

LOST_LOG_INTERVAL_S: Final = 1.0
"""Seconds between two looks at a log that lacks acks that were read from it."""

logger = get_logger(__name__)


class AckBarrier:
    """The :class:`pipeline.jobs.engine.ClaimBarrier` of the dispatcher."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._ends: dict[int, int] | None = None
        """Partition of the acks -> its end offset when the engine began to wait; None while it does not wait."""

    async def passed_on(self) -> datetime | None:
        """Return when the Postgres server started that has all acks up to the ends; None if none has them yet."""
        try:
            return await self._passed_on()
        except (KafkaError, LogUnavailable, OSError) as error:
            logger.warning("end of acks not known, claims wait", error=f"{type(error).__name__}: {error}")
            return None

    async def _passed_on(self) -> datetime | None:
        if self._ends is None:
            self._ends = await self._read_ends()
        async with self._rt.pool.connection() as connection:
            row = await (await connection.execute(SQL["acks_read"])).fetchone()
        assert row is not None
        server, partitions, next_offsets = row
        read = dict(zip(partitions, next_offsets, strict=True))
        if any(read.get(partition, 0) < end for partition, end in self._ends.items()):
            return None
        if any(offset > self._ends.get(partition, 0) for partition, offset in read.items()):
            # Read further than the log went: acks came since, or the log lacks what was read from it.
            ends = await self._read_ends()
            if any(offset > ends.get(partition, 0) for partition, offset in read.items()):
                await asyncio.sleep(LOST_LOG_INTERVAL_S)
                return None
        logger.info("acks read to their end, claims begin", partitions=len(self._ends))
        self._ends = None
        return server  # type: ignore[no-any-return]

    async def _read_ends(self) -> dict[int, int]:
        """Return the end offset of each partition of the acks that has any."""
        reader = create_consumer(self._rt.settings)
        await start_client(reader, self._rt.settings)
        try:
            partitions = await discover_partitions(reader, self._rt.settings.topic(PROVIDER_ACKS.name))
            ends = await reader.end_offsets(partitions)
        finally:
            await reader.stop()
        return {place.partition: end for place, end in ends.items() if end > 0}
