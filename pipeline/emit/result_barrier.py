"""Hold back the conversions of an emitter until results that are on the log, and not in the database, are in its jobs.

A database that was restored, or a standby that took over and lagged, has conversions as due that were told since: only
their results on the log say so. The projector brings them in the end, through the worker; to wait for both would hold
back all conversions whenever one of the two is slow. So the emitter reads the last results itself, at its start.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import discover_partitions
from pipeline.runtime.observing.logs import get_logger
from projections import sink
from projections.columns import is_storable_id
from projections.pending_conversions import JOB_STATE_BY_OUTCOME
from projections.sql import SqlQueries
from topics.codec import NewerRecord, Undecodable, decode
from topics.conversions import ConversionResult
from topics.registry import CONVERSION_RESULTS

SQL: Final = SqlQueries(Path(__file__).with_name("queries.sql"))
OVERLAP_S: Final = 120.0
"""Seconds before the time up to which results are known from which on they are read: clocks differ, and a job is
finished a moment after its result is on the log."""
RETRY_INTERVAL_S: Final = 1.0
MAX_RECORDS_PER_POLL: Final = 2000

logger = get_logger(__name__)


class ResultBarrier:
    """The :class:`pipeline.jobs.engine.ClaimBarrier` of the emitter."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    async def passed_on(self) -> datetime | None:
        """Close the jobs whose results are on the log; return when their Postgres server started.

        Return None while Kafka does not answer: no result could be recorded either.
        """
        try:
            return await self._close_told()
        except (KafkaError, LogUnavailable, OSError, TimeoutError) as error:
            logger.warning("last results not known, claims wait", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(RETRY_INTERVAL_S)
            return None

    async def _close_told(self) -> datetime:
        async with self._rt.pool.connection() as connection:
            row = await (await connection.execute(SQL["results_known_to"])).fetchone()
        assert row is not None
        server, known_to_s = row
        results = 0
        if known_to_s is not None:
            results = await self._read_results(int((known_to_s - OVERLAP_S) * 1000))
        logger.info("results read to their end, claims begin", results=results)
        return server  # type: ignore[no-any-return]

    async def _read_results(self, since_ms: int) -> int:
        """Write all results since a time into their jobs; return how many."""
        consumer = create_consumer(self._rt.settings)
        await start_client(consumer, self._rt.settings)
        try:
            places = await discover_partitions(consumer, self._rt.settings.topic(CONVERSION_RESULTS.name))
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            starts = await consumer.offsets_for_times(dict.fromkeys(places, max(0, since_ms)))
            unread = {place: ends[place] for place, start in starts.items() if start is not None}
            consumer.pause(*(place for place in places if place not in unread))
            for place in unread:
                consumer.seek(place, starts[place].offset)
            return await self._read_to(consumer, unread)
        finally:
            await consumer.stop()

    async def _read_to(self, consumer: AIOKafkaConsumer, unread: dict[TopicPartition, int]) -> int:
        results = 0
        while unread:
            batches = await get_records(consumer, timeout_ms=500, max_records=MAX_RECORDS_PER_POLL)
            records = [record for batch in batches.values() for record in batch]
            await self._settle([result for record in records if (result := _decode(record)) is not None])
            results += len(records)
            for place, end in list(unread.items()):
                if await consumer.position(place) >= end:
                    del unread[place]
        return results

    async def _settle(self, results: list[ConversionResult]) -> None:
        ended = [result for result in results if result.outcome in JOB_STATE_BY_OUTCOME]
        if not ended:
            return
        values: dict[str, Any] = {
            "stream": [result.email_id for result in ended],
            "name": [result.word.value for result in ended],
            "state": [JOB_STATE_BY_OUTCOME[result.outcome] for result in ended],
        }
        async with self._rt.pool.connection() as connection:
            await connection.execute(sink.SQL["close_jobs"], values)


def _decode(record: Any) -> ConversionResult | None:
    """Return the result in a record; None where the worker makes a dead letter of it, or a newer process wrote it."""
    try:
        result: ConversionResult = decode(CONVERSION_RESULTS, record.value)
    except (Undecodable, NewerRecord):
        return None
    return result if is_storable_id(result.email_id) else None
