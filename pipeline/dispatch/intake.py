"""`send-requests` and `provider-acks` in, rows of jobs.jobs out: each record's effect with its next offset.

One dispatcher at a time reads (a lock that Postgres takes back from who dies or freezes); what it
writes, it writes only from the offset it knew, so a frozen predecessor's batch fails whole. Where
a partition's requests were never read, its acks are read to their end first: a database that was
lost and is filled anew from the log sends nothing that was sent before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.dispatch.parse import IntakeRows, parse_records
from pipeline.jobs.store import storable_error
from pipeline.runtime.append import append_until_confirmed
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import create_consumer, discover_partitions
from pipeline.runtime.leader import ReaderOffsets, run_as_leader
from projections.sql import SqlQueries
from topics.registry import PROVIDER_ACKS, SEND_REQUESTS

SQL = SqlQueries(Path(__file__).with_name("queries.sql"))

MAX_RECORDS_PER_POLL: Final = 2000
LOCK_NAME: Final = "mailfold.dispatch.intake"


async def run_intake(rt: Runtime) -> None:
    """Read until ``rt.stop``, while no other dispatcher does."""
    await run_as_leader(rt, LOCK_NAME, lambda: JobIntake(rt).run())


class JobIntake:
    """The reader: a consumer by hand, its positions in Postgres."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._positions = ReaderOffsets(rt, (SEND_REQUESTS, PROVIDER_ACKS), SQL)
        self._gates: dict[TopicPartition, tuple[TopicPartition, int]] = {}
        """Requests that wait -> their acks and how far these must have been read."""

    async def run(self) -> None:
        """Read for ever. Raises LeaseLost where another reader moved the offsets."""
        reader = create_consumer(self._rt.settings, fetch_max_wait_ms=500)
        await reader.start()
        try:
            await self._begin(reader)
            while True:
                batches = await reader.getmany(timeout_ms=500, max_records=MAX_RECORDS_PER_POLL)
                if batches:
                    await self._take(batches)
                if self._gates:
                    await self._open_gates(reader)
        finally:
            await reader.stop()

    async def _begin(self, reader: AIOKafkaConsumer) -> None:
        known = await self._positions.stored_offsets()
        all_partitions = await discover_partitions(reader, *self._positions.topics)
        reader.assign(all_partitions)
        first, ends = await reader.beginning_offsets(all_partitions), await reader.end_offsets(all_partitions)
        for partition in all_partitions:
            self._positions.next_offsets[partition] = known.get(partition, first[partition])
            reader.seek(partition, self._positions.next_offsets[partition])
        acks = self._rt.settings.topic(PROVIDER_ACKS.name)
        for partition in all_partitions:
            if partition not in known and partition.topic != acks:
                gate = TopicPartition(acks, partition.partition)
                self._gates[partition] = (gate, ends[gate])
                reader.pause(partition)
        await self._positions.add_partitions([tp for tp in all_partitions if tp not in known and tp not in self._gates])

    async def _open_gates(self, reader: AIOKafkaConsumer) -> None:
        """Let requests flow whose acks were read as far as they went when we came."""
        for partition, (acks, end) in list(self._gates.items()):
            # The position also passes what is no record (a transaction's markers).
            if max(self._positions.next_offsets[acks], await reader.position(acks)) >= end:
                await self._positions.add_partitions([partition])
                del self._gates[partition]
                reader.resume(partition)

    async def _take(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        rows = parse_records(self._positions.topics, [record for records in batches.values() for record in records])
        if rows.broken:
            letters = [self._positions.dead_letter_entry(record, why) for record, why in rows.broken]
            await append_until_confirmed(self._rt.log, letters)
        upto = {partition: records[-1].offset + 1 for partition, records in batches.items()}
        async with self._rt.pool.connection() as connection:
            await _write(connection, rows)
            await self._positions.advance(connection, upto)
        self._positions.next_offsets |= upto


async def _write(connection: psycopg.AsyncConnection[Any], rows: IntakeRows) -> None:
    touched = {*rows.ends, *rows.deferrals, *rows.requests}
    await connection.execute(SQL["lock"], {"streams": sorted(touched)})
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
