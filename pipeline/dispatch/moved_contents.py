"""Find the contents of emails on a log that was copied to another cluster, where they have other offsets.

A request names its content by partition and offset (:class:`topics.requests.ContentPointer`). A copy keeps keys, times,
partitions and order, but not offsets. The send job handler calls this; it reads contents where they are named first.
"""

import asyncio
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.dispatch.content_reader import START_TIMEOUT_S, ContentReader
from pipeline.errors import LogUnavailable, Unrecognised
from pipeline.runtime.kafka.clients import create_consumer, get_records, start_client
from pipeline.runtime.kafka.log import topic_partition
from pipeline.runtime.observing.logs import get_logger
from pipeline.settings import Settings
from topics.contents import MessageContent
from topics.record import Millis
from topics.registry import MESSAGE_CONTENTS
from topics.requests import ContentPointer

SEARCH_BEFORE_MS: Final = 5_000
"""Milliseconds before the acceptance of an email at which its content is looked for first: clocks may step back."""
SEARCH_AFTER_MS: Final = 60_000
"""Milliseconds after it at which the search ends; a gateway appends the content within `MAILFOLD_APPEND_TIMEOUT`."""
SEARCH_TIMEOUT_S: Final = 30.0
"""Seconds until a search that the brokers do not answer is given up; the email is tried again."""

logger = get_logger(__name__)


class ContentFinder:
    """Reader of contents that looks for one by its time where it is not at its offset."""

    def __init__(self, reader: ContentReader, settings: Settings) -> None:
        self._reader = reader
        self._settings = settings
        self._shifts: dict[int, int] = {}
        """Partition -> by how much the offsets of its contents differ from those in the requests."""
        self._expired_before: dict[int, Millis] = {}
        """Partition -> acceptance before which the log has no contents any more; it only loses more."""
        self._searching = asyncio.Lock()

    async def get(self, pointer: ContentPointer, accepted_at: Millis) -> MessageContent:
        """Return the content that a request points to, which was accepted at this time.

        Raises Unrecognised if it is neither there nor near that time, and LogUnavailable if Kafka does not answer.
        """
        try:
            return await self._reader.get(pointer)
        except Unrecognised as error:
            reason = error
        if (moved := await self._get_shifted(pointer)) is not None:
            return moved
        async with self._searching:
            # Another email of the same partition may have found out meanwhile.
            if (moved := await self._get_shifted(pointer)) is not None:
                return moved
            if accepted_at < self._expired_before.get(pointer.partition, 0):
                raise reason
            offset = await self._find_offset(pointer, accepted_at)
        if offset is None or offset == pointer.offset:
            raise reason
        logger.warning("content found at another offset: a copied log", partition=pointer.partition, offset=offset)
        self._shifts[pointer.partition] = offset - pointer.offset
        return await self._reader.get(msgspec.structs.replace(pointer, offset=offset))

    async def _get_shifted(self, pointer: ContentPointer) -> MessageContent | None:
        """Return the content if it is as far from its offset as the last one of its partition was."""
        shift = self._shifts.get(pointer.partition)
        if shift is None or pointer.offset + shift < 0:
            return None
        try:
            return await self._reader.get(msgspec.structs.replace(pointer, offset=pointer.offset + shift))
        except Unrecognised:
            return None

    async def _find_offset(self, pointer: ContentPointer, accepted_at: Millis) -> int | None:
        """Return the offset of the content's first chunk; None if there is none near its time."""
        if pointer.partition >= self._settings.partitions:
            return None
        consumer = create_consumer(self._settings, fetch_max_wait_ms=50)
        await start_client(consumer, self._settings, START_TIMEOUT_S)
        try:
            place = topic_partition(MESSAGE_CONTENTS.name, pointer.partition, self._settings)
            consumer.assign([place])
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                start = (await consumer.offsets_for_times({place: accepted_at - SEARCH_BEFORE_MS}))[place]
                beginning = (await consumer.beginning_offsets([place]))[place]
                end = (await consumer.end_offsets([place]))[place]
                if start is None:
                    return None
                if start.offset <= beginning and start.timestamp > accepted_at + SEARCH_AFTER_MS:
                    self._expired_before[pointer.partition] = start.timestamp - SEARCH_AFTER_MS
                    return None
                consumer.seek(place, start.offset)
                return await _search(consumer, place, pointer.content_id.encode(), accepted_at + SEARCH_AFTER_MS, end)
        except (KafkaError, TimeoutError) as error:
            raise LogUnavailable(f"message-contents can't be searched: {type(error).__name__}") from error
        finally:
            await consumer.stop()


async def _search(consumer: AIOKafkaConsumer, place: TopicPartition, key: bytes, until: Millis, end: int) -> int | None:
    """Return the offset of the first record with this key before a time and an end offset; None if there is none."""
    while await consumer.position(place) < end:
        records: list[Any] = (await get_records(consumer, place, timeout_ms=500)).get(place, [])
        for record in records:
            if record.key == key:
                return int(record.offset)
            if record.timestamp > until:
                return None
    return None
