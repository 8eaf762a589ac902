"""Read the contents of emails from `message-contents` by partition and offset, and verify their checksums.

Called by the send job handler. Requests are on the log in about the order of their contents, so the
records fetched for one email usually include those of the next ones; a small cache keeps them.
"""

import asyncio
import contextlib
import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.content.chunks import unpack_content, unpacked_bytes
from pipeline.errors import LogUnavailable, Unrecognised
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import discover_partitions, topic_partition
from pipeline.settings import Settings
from topics.codec import NewerRecord, Undecodable, decode
from topics.contents import ContentChunk, MessageContent
from topics.record import LogPosition
from topics.registry import MAX_RECORD_BYTES, MESSAGE_CONTENTS
from topics.requests import ContentPointer

BROKER_TIMEOUT_S: Final = 5.0
"""Seconds to wait for Kafka before raising LogUnavailable."""
START_TIMEOUT_S: Final = 4.0
"""Seconds for a consumer to connect, less than `BROKER_TIMEOUT_S`, so that it is closed where it does not."""
CLOSE_TIMEOUT_S: Final = 2.0
CACHE_MAX_BYTES: Final = 32_000_000
CONTENT_CACHE_MAX_BYTES: Final = 16_000_000
"""Bytes of unpacked contents that are kept for the other recipients of the same message."""
RECORD_OVERHEAD_BYTES: Final = 200
"""Estimated memory of a cached record beside its value, in bytes."""
MAX_INLINE_BYTES: Final = 1_000_000
"""Largest uncompressed content, in bytes, that is unpacked in the event loop, which takes about a millisecond."""
MAX_SKIPPED_RECORDS: Final = 200
"""Largest gap between two offsets, in records, that is read through instead of seeking."""

RecordKey = tuple[int, int]
"""Partition and offset."""


class _RecordCache:
    """The raw records read last, up to CACHE_MAX_BYTES; None stands for a record that no longer exists."""

    def __init__(self) -> None:
        self._records: OrderedDict[RecordKey, bytes | None] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: RecordKey) -> bool:
        return key in self._records

    def get(self, key: RecordKey) -> bytes | None:
        self._records.move_to_end(key)
        return self._records[key]

    def put(self, key: RecordKey, value: bytes | None) -> None:
        if key in self._records:
            return
        self._records[key] = value
        self._bytes += len(value or b"") + RECORD_OVERHEAD_BYTES
        while self._bytes > CACHE_MAX_BYTES and len(self._records) > 1:
            _, evicted = self._records.popitem(last=False)
            self._bytes -= len(evicted or b"") + RECORD_OVERHEAD_BYTES


class _ContentCache:
    """The contents unpacked last, up to CONTENT_CACHE_MAX_BYTES, by the SHA-256 that proves that they are the same."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, tuple[MessageContent, int]] = OrderedDict()
        self._bytes = 0

    def get(self, sha256: str) -> MessageContent | None:
        cached = self._contents.get(sha256)
        if cached is None:
            return None
        self._contents.move_to_end(sha256)
        return cached[0]

    def put(self, sha256: str, content: MessageContent, size: int) -> None:
        if sha256 in self._contents or size > CONTENT_CACHE_MAX_BYTES:
            return
        self._contents[sha256] = (content, size)
        self._bytes += size
        while self._bytes > CONTENT_CACHE_MAX_BYTES:
            _, (_, evicted_size) = self._contents.popitem(last=False)
            self._bytes -= evicted_size


class ContentReader:
    """Reader of email contents that shares one Kafka consumer between concurrent callers.

    After an error it opens another consumer, with which it reads as soon as Kafka answers again.
    """

    def __init__(self, open_consumer: Callable[[], Awaitable[AIOKafkaConsumer]], settings: Settings) -> None:
        self._open_consumer = open_consumer
        self._consumer: AIOKafkaConsumer | None = None
        self._settings = settings
        self._cache = _RecordCache()
        self._contents = _ContentCache()
        self._positions: dict[TopicPartition, int] = {}
        self._records: BatchLoader[RecordKey, bytes | None] = BatchLoader(self._read)

    async def open(self) -> None:
        """Open the consumer. Raise LogUnavailable, KafkaError."""
        self._consumer = await self._open_consumer()

    async def close(self) -> None:
        """Close the consumer within `CLOSE_TIMEOUT_S`."""
        consumer, self._consumer = self._consumer, None
        self._positions.clear()
        if consumer is not None:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await consumer.stop()

    async def get(self, pointer: ContentPointer) -> MessageContent:
        """Return the content that a request points to.

        Raises Unrecognised if it is missing, expired or different from what the request says, and
        LogUnavailable if Kafka does not answer.
        """
        if (cached := self._contents.get(pointer.sha256)) is not None:
            return cached
        chunks = await self._chunks(pointer)
        size = unpacked_bytes(chunks)
        if size <= MAX_INLINE_BYTES:
            content = unpack_content(chunks, pointer.sha256)
        else:
            content = await asyncio.to_thread(unpack_content, chunks, pointer.sha256)
        self._contents.put(pointer.sha256, content, size + RECORD_OVERHEAD_BYTES)
        return content

    async def _chunks(self, pointer: ContentPointer) -> list[ContentChunk]:
        chunks: list[ContentChunk] = []
        offset = pointer.offset
        while len(chunks) < pointer.chunks:
            chunk = _decode_chunk(pointer, offset, await self._record((pointer.partition, offset)))
            if chunk.content_id == pointer.content_id:
                chunks.append(chunk)
            elif not chunks:
                raise Unrecognised(f"{content_position(pointer)}: another content is stored there")
            offset += 1
        return chunks

    async def _record(self, key: RecordKey) -> bytes | None:
        if key in self._cache:
            return self._cache.get(key)
        return await self._records.get(key)

    async def _read(self, keys: set[RecordKey]) -> Mapping[RecordKey, bytes | None]:
        missing = {key for key in keys if key not in self._cache}
        records = {key: self._cache.get(key) for key in keys - missing}
        by_partition: dict[int, list[int]] = {}
        for partition, offset in sorted(missing):
            by_partition.setdefault(partition, []).append(offset)
        try:
            async with asyncio.timeout(BROKER_TIMEOUT_S):
                if self._consumer is None:
                    await self.open()
                for partition, offsets in by_partition.items():
                    records |= await self._read_partition(partition, offsets)
        except (KafkaError, LogUnavailable, TimeoutError) as error:
            await self.close()
            raise LogUnavailable(f"message-contents can't be read: {type(error).__name__}") from error
        return records

    async def _read_partition(self, partition: int, offsets: list[int]) -> dict[RecordKey, bytes | None]:
        assert self._consumer is not None
        tp = topic_partition(MESSAGE_CONTENTS.name, partition, self._settings)
        if tp not in self._consumer.assignment():
            return {(partition, offset): None for offset in offsets}
        self._consumer.resume(tp)
        try:
            return {(partition, offset): await self._read_offset(self._consumer, tp, offset) for offset in offsets}
        finally:
            self._consumer.pause(tp)

    async def _read_offset(self, consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> bytes | None:
        key = (tp.partition, offset)
        if (
            key not in self._cache
            and not 0 <= offset - self._positions.get(tp, -MAX_SKIPPED_RECORDS) < MAX_SKIPPED_RECORDS
        ):
            consumer.seek(tp, offset)
            # Now, not with the first record: a read that finds none must not leave the old position here.
            self._positions[tp] = offset
        is_past_offset = False
        while key not in self._cache and not is_past_offset:
            records = (await get_records(consumer, tp, timeout_ms=200)).get(tp, [])
            for record in records:
                self._cache.put((tp.partition, record.offset), record.value)
                self._positions[tp] = record.offset + 1
            is_past_offset = self._positions[tp] > offset if records else not await _exists(consumer, tp, offset)
        return self._cache.get(key) if key in self._cache else None


async def _exists(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> bool:
    beginning = (await consumer.beginning_offsets([tp]))[tp]
    return bool(beginning <= offset < (await consumer.end_offsets([tp]))[tp])


def _decode_chunk(pointer: ContentPointer, offset: int, raw: bytes | None) -> ContentChunk:
    if raw is None:
        raise Unrecognised(f"{content_position(pointer)}: no record at offset {offset} (expired?)")
    try:
        chunk: ContentChunk = decode(MESSAGE_CONTENTS, raw)
    except NewerRecord as error:
        place = LogPosition(topic=MESSAGE_CONTENTS.name, partition=pointer.partition, offset=offset)
        raise error.at(place) from None
    except Undecodable as error:
        raise Unrecognised(str(error)) from error
    return chunk


def content_position(pointer: ContentPointer) -> LogPosition:
    """Return the log position of the first chunk of a content."""
    return LogPosition(topic=MESSAGE_CONTENTS.name, partition=pointer.partition, offset=pointer.offset)


@contextlib.asynccontextmanager
async def open_content_reader(settings: Settings) -> AsyncIterator[ContentReader]:
    """Open a reader. Raise LogUnavailable, KafkaError."""
    reader = ContentReader(functools.partial(_open_consumer, settings), settings)
    await reader.open()
    try:
        yield reader
    finally:
        await reader.close()


async def _open_consumer(settings: Settings) -> AIOKafkaConsumer:
    """Open a consumer of all partitions; all start paused, so that only records that were asked for are fetched."""
    consumer = create_consumer(settings, fetch_max_wait_ms=50, max_partition_fetch_bytes=2 * MAX_RECORD_BYTES)
    await start_client(consumer, settings, START_TIMEOUT_S)
    try:
        partitions = await discover_partitions(consumer, settings.topic(MESSAGE_CONTENTS.name))
        consumer.assign(partitions)
        consumer.pause(*partitions)
    except BaseException:
        await consumer.stop()
        raise
    return consumer
