"""Read `send-requests` and `provider-acks` into the rows of jobs.jobs, in one transaction with the next offsets.

Run by `mailfold dispatch`. One dispatcher at a time reads: it holds a lock that Postgres takes back from a process
that died or froze. A batch is written only if the stored offsets are those the reader started from, so the batch
of a frozen predecessor fails as a whole. Before the requests of a partition are read, at every start, its acks are
read to their end: a database that was restored or rebuilt must not send again what was already sent.
:mod:`pipeline.dispatch.ack_barrier` holds back the jobs that it has already.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import Histogram

from pipeline.dispatch.metrics import DispatchMetrics
from pipeline.dispatch.parse import IntakeRows, parse_records
from pipeline.jobs.store import storable_error
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.append import append_until_confirmed
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import discover_partitions
from pipeline.runtime.kafka.reader_progress import ReaderProgress, observe_reader
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.observing.tracing import Tracer, batch_attributes, contexts_of, email_ids_of
from pipeline.runtime.postgres.leader import ReaderOffsets, run_as_leader
from projections.sql import SqlQueries
from topics.registry import PROVIDER_ACKS, SEND_REQUESTS

SQL = SqlQueries(Path(__file__).with_name("queries.sql"))

MAX_RECORDS_PER_POLL: Final = 2000
GATHER_S: Final = 0.015
"""Seconds between two transactions, in which more records come: one of many costs hardly more than one of a few."""
LOCK_NAME: Final = "mailfold.dispatch.intake"


async def run_intake(rt: Runtime, metrics: DispatchMetrics) -> None:
    """Read until ``rt.stop``, as long as no other dispatcher does."""
    progress = observe_reader(rt, metrics.readers, "dispatch")
    await run_as_leader(rt, LOCK_NAME, lambda: JobIntake(rt, progress, metrics.intake_seconds).run())


class JobIntake:
    """Reader of both topics with manually assigned partitions and its offsets in Postgres."""

    def __init__(self, rt: Runtime, progress: ReaderProgress, transaction_seconds: Histogram) -> None:
        self._rt = rt
        self._progress = progress
        self._transaction_seconds = transaction_seconds
        self._positions = ReaderOffsets(rt, (SEND_REQUESTS, PROVIDER_ACKS), SQL)
        self._skipped = SkippedRecords(rt.settings)
        self._paused: dict[TopicPartition, tuple[TopicPartition, int]] = {}
        """Paused partition of requests -> partition of its acks, and the offset up to which they must be read first."""

    async def run(self) -> None:
        """Read until cancelled. Raises LeaseLost if another reader moved the offsets."""
        reader = create_consumer(self._rt.settings, fetch_max_wait_ms=500)
        await start_client(reader, self._rt.settings)
        try:
            await self._assign(reader)
            self._progress.begin(reader, lambda: self._positions.next_offsets, lambda: len(self._paused))
            while True:
                if self._paused:
                    await self._resume_requests(reader)
                batches = await get_records(reader, timeout_ms=500, max_records=MAX_RECORDS_PER_POLL)
                if batches:
                    await self._write_batches(batches)
                    await asyncio.sleep(GATHER_S)
        finally:
            self._progress.end()
            for place, reason in self._positions.lost.items():
                self._progress.note_lost(place, reason)
            await reader.stop()

    async def _assign(self, reader: AIOKafkaConsumer) -> None:
        stored = await self._positions.stored_offsets()
        all_partitions = await discover_partitions(reader, *self._positions.topics)
        reader.assign(all_partitions)
        beginnings, ends = await reader.beginning_offsets(all_partitions), await self._positions.ends(reader, stored)
        acks = self._rt.settings.topic(PROVIDER_ACKS.name)
        for partition in all_partitions:
            self._positions.next_offsets[partition] = stored.get(partition, beginnings[partition])
            reader.seek(partition, self._positions.next_offsets[partition])
            if partition.topic != acks:
                ack_partition = TopicPartition(acks, partition.partition)
                self._paused[partition] = (ack_partition, ends[ack_partition])
                reader.pause(partition)
        await self._positions.add_partitions([each for each in all_partitions if each not in stored])

    async def _resume_requests(self, reader: AIOKafkaConsumer) -> None:
        """Resume partitions of requests whose acks are read up to where they ended when this reader started."""
        for partition, (acks, end) in list(self._paused.items()):
            # The consumer's position also passes offsets without a record, such as transaction markers.
            position = await reader.position(acks)
            if position > self._positions.next_offsets[acks]:
                await self._store_position(acks, position)
            if self._positions.next_offsets[acks] >= end:
                del self._paused[partition]
                reader.resume(partition)

    async def _store_position(self, partition: TopicPartition, position: int) -> None:
        """Store a position that is after the last record: the engines of all dispatchers wait for it."""
        async with self._rt.pool.connection() as connection:
            await self._positions.advance(connection, {partition: position})
        self._positions.next_offsets[partition] = position

    async def _parse(self, records: Sequence[Any]) -> IntakeRows:
        return parse_records(self._positions.topics, records)

    def _requests(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> list[Any]:
        own = self._rt.settings.topic(SEND_REQUESTS.name)
        return [record for partition, records in batches.items() if partition.topic == own for record in records]

    async def _write_batches(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        for partition, records in batches.items():
            self._positions.require_following(partition, records[0].offset)
            self._progress.add_fetched(partition, records)
        rows = await self._skipped.pass_over(list(itertools.chain(*batches.values())), self._parse)
        if rows.broken:
            dead_letters = [self._positions.dead_letter_entry(record, error) for record, error in rows.broken]
            await append_until_confirmed(self._rt.log, dead_letters)
        upto = {partition: records[-1].offset + 1 for partition, records in batches.items()}
        with self._transaction_seconds.time():
            # In pipeline mode all statements share a round trip.
            async with self._rt.pool.connection() as connection, connection.pipeline():
                await _write(connection, rows)
                if self._rt.tracer.is_on:
                    await _trace_jobs(connection, self._rt.tracer, self._requests(batches), rows)
                await self._positions.advance(connection, upto, batches)
                await connection.commit()
        self._positions.next_offsets |= upto
        self._progress.finish(upto)


async def _trace_jobs(
    connection: psycopg.AsyncConnection[Any], tracer: Tracer, requests: Sequence[Any], rows: IntakeRows
) -> None:
    """Give the jobs of traced requests their trace context."""
    traced = tracer.traced_keys(requests)
    email_ids = email_ids_of(traced) & rows.requests.keys()
    attributes = batch_attributes(SEND_REQUESTS.name, email_ids)
    with tracer.span("take in", "consumer", contexts_of(traced), attributes) as span:
        if span.traceparent:
            values = {"streams": list(email_ids), "traceparent": span.traceparent}
            await connection.execute(SQL["trace_jobs"], values)


async def _write(connection: psycopg.AsyncConnection[Any], rows: IntakeRows) -> None:
    email_ids = {*rows.ends, *rows.deferrals, *rows.requests}
    await connection.execute(SQL["lock"], {"streams": sorted(email_ids)})
    if rows.ends:
        states, attempts, errors = zip(*rows.ends.values(), strict=True)
        values = {
            "states": list(states),
            "attempts": list(attempts),
            "errors": [storable_error(error) for error in errors],
        }
        await connection.execute(SQL["take_ends"], {"streams": list(rows.ends), **values})
    if rows.deferrals:
        attempts, dues = zip(*rows.deferrals.values(), strict=True)
        values = {"streams": list(rows.deferrals), "attempts": list(attempts), "dues": list(dues)}
        await connection.execute(SQL["take_deferrals"], values)
    if rows.requests:
        lanes, payloads = zip(*rows.requests.values(), strict=True)
        values = {"streams": list(rows.requests), "lanes": list(lanes), "payloads": list(payloads)}
        await connection.execute(SQL["take_requests"], values)
        await connection.execute("select pg_notify('jobs_dispatch', '')")
