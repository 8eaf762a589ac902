"""`send-requests` and `provider-acks` in, rows of jobs.jobs out: each record's effect with its next offset.

One dispatcher at a time reads (a lock that Postgres takes back from who dies or freezes); what it
writes, it writes only from the offset it knew, so a frozen predecessor's batch fails whole. Where
a partition's requests were never read, its acks are read to their end first: a database that was
lost and is filled anew from the log sends nothing that was sent before.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from psycopg_pool import PoolTimeout

from pipeline.bootstrap import Runtime
from pipeline.dispatch.reading import Rows, read
from pipeline.errors import LeaseLost, Recoverable
from pipeline.kafka import consumer, partitions
from pipeline.outbox.append import append_until_confirmed
from pipeline.outbox.store import storable
from pipeline.ports import Entry
from projections.sql import Queries
from topics.dead_letters import DeadLetter
from topics.record import Place
from topics.registry import DEAD_LETTERS, PROVIDER_ACKS, SEND_REQUESTS

logger = logging.getLogger(__name__)

SQL = Queries(Path(__file__).with_name("queries.sql"))

BATCH: Final = 2000
STANDBY: Final = 1.0
"""Seconds between a standby's tries to become the reader."""
PING: Final = 3.0
"""Seconds between signs of life; Postgres waits ten."""


async def take_in(rt: Runtime) -> None:
    """Read until ``rt.stop``; whatever goes wrong is tried again, a breath later."""
    while not rt.stop.is_set():
        try:
            async with _leading(rt) as leading:
                if leading:
                    await _until_any(Intake(rt).run(), rt.stop.wait(), _ping(leading))
        except (psycopg.Error, PoolTimeout, KafkaError, OSError, Recoverable) as error:
            logger.warning("intake: %s: %s; beginning again", type(error).__name__, error)
        await _rest(rt.stop, STANDBY)


class Intake:
    """The reader: a consumer by hand, its positions in Postgres."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._topics = {rt.settings.topic(topic.name): topic for topic in (SEND_REQUESTS, PROVIDER_ACKS)}
        self._next: dict[TopicPartition, int] = {}
        self._gates: dict[TopicPartition, tuple[TopicPartition, int]] = {}
        """Requests that wait -> their acks and how far these must have been read."""

    async def run(self) -> None:
        """Read for ever. Raises LeaseLost where another reader moved the offsets."""
        reader = consumer(self._rt.settings, fetch_max_wait_ms=500)
        await reader.start()
        try:
            await self._begin(reader)
            while True:
                batches = await reader.getmany(timeout_ms=500, max_records=BATCH)
                if batches:
                    await self._take(batches)
                if self._gates:
                    await self._open_gates(reader)
        finally:
            await reader.stop()

    async def _begin(self, reader: AIOKafkaConsumer) -> None:
        known = await self._known()
        all_partitions = await partitions(reader, *self._topics)
        reader.assign(all_partitions)
        first, ends = await reader.beginning_offsets(all_partitions), await reader.end_offsets(all_partitions)
        for partition in all_partitions:
            self._next[partition] = known.get(partition, first[partition])
            reader.seek(partition, self._next[partition])
        acks = self._rt.settings.topic(PROVIDER_ACKS.name)
        for partition in all_partitions:
            if partition not in known and partition.topic != acks:
                gate = TopicPartition(acks, partition.partition)
                self._gates[partition] = (gate, ends[gate])
                reader.pause(partition)
        await self._write_first([tp for tp in all_partitions if tp not in known and tp not in self._gates])

    async def _known(self) -> dict[TopicPartition, int]:
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["next_offsets"])).fetchall()
        prefix = self._rt.settings.topic
        return {TopicPartition(prefix(topic), partition): offset for topic, partition, offset in rows}

    async def _write_first(self, unread: Sequence[TopicPartition]) -> None:
        async with self._rt.pool.connection() as connection:
            values = self._columns(unread) | {"offsets": [self._next[tp] for tp in unread]}
            await connection.execute(SQL["begin_partition"], values)

    async def _open_gates(self, reader: AIOKafkaConsumer) -> None:
        """Let requests flow whose acks were read as far as they went when we came."""
        for partition, (acks, end) in list(self._gates.items()):
            # The position also passes what is no record (a transaction's markers).
            if max(self._next[acks], await reader.position(acks)) >= end:
                await self._write_first([partition])
                del self._gates[partition]
                reader.resume(partition)

    async def _take(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        rows = read(self._topics, [record for records in batches.values() for record in records])
        if rows.broken:
            await append_until_confirmed(self._rt.log, [self._letter(record, why) for record, why in rows.broken])
        upto = {partition: records[-1].offset + 1 for partition, records in batches.items()}
        async with self._rt.pool.connection() as connection:
            await _write(connection, rows)
            await self._advance(connection, upto)
        self._next |= upto

    async def _advance(self, connection: psycopg.AsyncConnection[Any], upto: Mapping[TopicPartition, int]) -> None:
        values = self._columns(list(upto)) | {
            "expected": [self._next[partition] for partition in upto],
            "upto": list(upto.values()),
        }
        moved = await connection.execute(SQL["advance"], values)
        if moved.rowcount != len(upto):
            raise LeaseLost("another dispatcher reads the log now")

    def _columns(self, places: Sequence[TopicPartition]) -> dict[str, Any]:
        return {
            "topics": [self._topics[place.topic].name for place in places],
            "partitions": [place.partition for place in places],
        }

    def _letter(self, record: Any, why: str) -> Entry:
        source = Place(topic=self._topics[record.topic].name, partition=record.partition, offset=record.offset)
        letter = DeadLetter(
            source=source,
            recorded_at=self._rt.clock(),
            reason="undecodable",
            error=why[:1000],
            role="dispatch",
            key=record.key,
            value=record.value,
        )
        logger.error("%s is no record of ours; it went to the dead letters", source)
        return Entry(DEAD_LETTERS, None, letter)


async def _write(connection: psycopg.AsyncConnection[Any], rows: Rows) -> None:
    touched = {*rows.ends, *rows.deferrals, *rows.requests}
    await connection.execute(SQL["lock"], {"streams": sorted(touched)})
    if rows.ends:
        states, attempts, errors = zip(*rows.ends.values(), strict=True)
        values = {"states": list(states), "attempts": list(attempts), "errors": [storable(error) for error in errors]}
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


@contextlib.asynccontextmanager
async def _leading(rt: Runtime) -> AsyncIterator[psycopg.AsyncConnection[Any] | None]:
    """A session that holds the lock; None while another dispatcher has it."""
    url = rt.settings.database_url.get_secret_value()
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5)
    async with connection:
        await connection.execute(SQL["lead_or_end"])
        row = await (await connection.execute(SQL["lead"])).fetchone()
        yield connection if row is not None and row[0] else None


async def _ping(connection: psycopg.AsyncConnection[Any]) -> None:
    while True:
        await asyncio.sleep(PING)
        await connection.execute("select 1")


async def _until_any(*coroutines: Any) -> None:
    """Run all until one ends; the others are cancelled, an error is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
