"""The reader of contents finds them after reads that failed or found nothing."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from pipeline.content.chunks import pack_content
from pipeline.dispatch import content_reader
from pipeline.dispatch.content_reader import ContentReader
from pipeline.errors import LogUnavailable, Unrecognised
from pipeline.settings import Settings
from topics.codec import encode
from topics.contents import MessageContent
from topics.registry import MESSAGE_CONTENTS
from topics.requests import ContentPointer

PARTITION = TopicPartition("message-contents", 0)
FIRST, END = 100, 110


def pointer(offset: int) -> ContentPointer:
    chunks, sha256 = pack_content(content(offset), str(offset))
    return ContentPointer(content_id=str(offset), partition=0, offset=offset, chunks=len(chunks), sha256=sha256)


def content(offset: int) -> MessageContent:
    return MessageContent(text=f"content {offset}")


class FakeConsumer:
    """A consumer of one partition, which has a content at each offset from FIRST to END; it fetches one at a time."""

    def __init__(self) -> None:
        self._fetcher = SimpleNamespace(_fetch_task=SimpleNamespace(done=lambda: False))
        self._position = FIRST
        self.fails = self.is_stopped = False

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    def resume(self, *_: TopicPartition) -> None: ...

    def pause(self, *_: TopicPartition) -> None: ...

    def seek(self, _: TopicPartition, offset: int) -> None:
        self._position = offset

    async def getmany(self, *_: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if self.fails:
            raise KafkaError("no broker answers")
        if not FIRST <= self._position < END:
            await asyncio.sleep(0.01)
            return {}
        offset, self._position = self._position, self._position + 1
        [chunk], _digest = pack_content(content(offset), str(offset))
        return {PARTITION: [SimpleNamespace(offset=offset, value=encode(MESSAGE_CONTENTS, chunk))]}

    async def beginning_offsets(self, _: Any) -> dict[TopicPartition, int]:
        return {PARTITION: FIRST}

    async def end_offsets(self, _: Any) -> dict[TopicPartition, int]:
        return {PARTITION: END}

    async def stop(self) -> None:
        self.is_stopped = True


async def opened(*consumers: FakeConsumer) -> ContentReader:
    """Return a reader that opens these consumers one after the other."""
    remaining: list[Any] = list(consumers)

    async def open_consumer() -> Any:
        return remaining.pop(0)

    reader = ContentReader(open_consumer, Settings())
    await reader.open()
    return reader


async def test_content_is_found_after_a_read_that_found_nothing() -> None:
    """The consumer had moved, and the reader took its position for the old one."""
    reader = await opened(FakeConsumer())
    assert await reader.get(pointer(100)) == content(100)
    with pytest.raises(Unrecognised, match="no record at offset 5000"):
        await reader.get(pointer(5000))
    assert await reader.get(pointer(101)) == content(101)


async def test_reader_opens_another_consumer_after_an_error() -> None:
    first, second = FakeConsumer(), FakeConsumer()
    reader = await opened(first, second)
    assert await reader.get(pointer(104)) == content(104)
    first.fails = True
    with pytest.raises(LogUnavailable):
        await reader.get(pointer(105))
    assert first.is_stopped
    assert await reader.get(pointer(105)) == content(105)


async def test_content_that_recipients_share_is_unpacked_once() -> None:
    reader = await opened(FakeConsumer())
    first = await reader.get(pointer(FIRST))
    assert await reader.get(pointer(FIRST)) is first
    assert await reader.get(pointer(FIRST + 1)) is not first


async def test_contents_are_kept_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_reader, "CONTENT_CACHE_MAX_BYTES", 3 * content_reader.RECORD_OVERHEAD_BYTES)
    reader = await opened(FakeConsumer())
    first = await reader.get(pointer(FIRST))
    second = await reader.get(pointer(FIRST + 1))
    assert await reader.get(pointer(FIRST)) is first
    await reader.get(pointer(FIRST + 2))
    assert await reader.get(pointer(FIRST)) is first
    assert await reader.get(pointer(FIRST + 1)) is not second
