"""What the worker writes: records for a named partition in, confirmed by all in-sync replicas or an error out."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.kafka import MAX_REQUEST_BYTES, KafkaLog, append_all
from pipeline.ports import Entry
from pipeline.settings import Settings
from topics.registry import Topic


class Write(msgspec.Struct, frozen=True):
    """Bytes for one partition: a state and its change land on the partition that their facts came from."""

    topic: Topic
    partition: int
    key: bytes | None
    value: bytes


class Outlet:
    """The worker's producer."""

    def __init__(self, producer: AIOKafkaProducer, settings: Settings) -> None:
        self._producer = producer
        self._settings = settings
        self._log = KafkaLog(producer, settings)

    async def append(self, entries: Sequence[Entry]) -> None:
        """Append all, each to its key's partition. Raises LogUnavailable."""
        if entries:
            await append_all(self._log, entries)

    async def write(self, writes: Sequence[Write]) -> dict[tuple[str, int], int]:
        """Append all; the last offset per topic and partition, once confirmed. Raises LogUnavailable."""
        runs: dict[tuple[str, int], list[Write]] = defaultdict(list)
        for write in writes:
            runs[write.topic.name, write.partition].append(write)
        try:
            async with asyncio.timeout(self._settings.append_timeout):
                ends = await asyncio.gather(*(self._run(name, number, run) for (name, number), run in runs.items()))
        except (KafkaError, TimeoutError) as error:
            raise LogUnavailable(f"the log did not confirm in time: {error!r}") from error
        return dict(zip(runs, ends, strict=True))

    async def _run(self, name: str, partition: int, run: list[Write]) -> int:
        """One Kafka batch after the other, so that a partition's records keep their order."""
        topic, end = self._settings.topic(name), -1
        batch: Any = self._producer.create_batch()
        for write in run:
            if batch.append(key=write.key, value=write.value, timestamp=None) is None:
                end = await self._send(batch, topic, partition)
                batch = self._producer.create_batch()
                if batch.append(key=write.key, value=write.value, timestamp=None) is None:
                    raise LogUnavailable(f"a record of {len(write.value)} bytes fits in no batch of {topic}")
        return await self._send(batch, topic, partition) if batch.record_count() else end

    async def _send(self, batch: Any, topic: str, partition: int) -> int:
        count = batch.record_count()
        confirmed = await (await self._producer.send_batch(batch, topic, partition=partition))
        return int(confirmed.offset) + int(count) - 1


@contextlib.asynccontextmanager
async def outlet(settings: Settings) -> AsyncIterator[Outlet]:
    """A started outlet; closed at the end, bounded in time."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=MAX_REQUEST_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
    )
    try:
        await producer.start()
    except KafkaError as error:
        await producer.stop()
        raise LogUnavailable(f"Kafka at KAFKA_BOOTSTRAP={settings.kafka_bootstrap} does not answer: {error}") from error
    try:
        yield Outlet(producer, settings)
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(3):
                await producer.stop()
