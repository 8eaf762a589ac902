"""The dispatcher finds contents on a copied log, where their offsets are others than the requests say."""

import msgspec
import pytest

from pipeline.dispatch.content_reader import open_content_reader
from pipeline.dispatch.moved_contents import SEARCH_AFTER_MS, ContentFinder
from pipeline.errors import Unrecognised
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings
from tests.support.dispatching import accept
from topics.contents import MessageContent
from topics.requests import ContentPointer, SendRequest


async def requests(rt: Runtime, count: int) -> list[SendRequest]:
    return [
        request
        for nth in range(count)
        for request in await accept(rt, "a@example.com", content=MessageContent(text=f"content {nth}"))
    ]


def moved(request: SendRequest, by: int) -> ContentPointer:
    assert request.content is not None
    return msgspec.structs.replace(request.content, offset=request.content.offset + by)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The partitions of all searches."""
    searched: list[int] = []
    real = ContentFinder._find_offset

    async def counted(self: ContentFinder, pointer: ContentPointer, accepted_at: int) -> int | None:
        searched.append(pointer.partition)
        return await real(self, pointer, accepted_at)

    monkeypatch.setattr(ContentFinder, "_find_offset", counted)
    return searched


@pytest.mark.parametrize("by", [1, -1, 1000])
async def test_content_is_found_by_its_time_and_the_next_ones_by_the_same_distance(
    settings: Settings, searched: list[int], by: int
) -> None:
    async with open_runtime(settings, signals=False) as rt, open_content_reader(settings) as reader:
        accepted = await requests(rt, 12)
        finder = ContentFinder(reader, settings)
        for nth, request in enumerate(accepted):
            content = await finder.get(moved(request, by), request.recorded_at)
            assert content.text == f"content {nth}"
    assert len(searched) == len(set(searched)), "one search in each partition"


async def test_content_that_is_nowhere_is_missing_for_the_first_reason(settings: Settings) -> None:
    async with open_runtime(settings, signals=False) as rt, open_content_reader(settings) as reader:
        [request] = await requests(rt, 1)
        finder = ContentFinder(reader, settings)
        unknown = msgspec.structs.replace(moved(request, 1000), content_id="another")
        with pytest.raises(Unrecognised, match="no record at offset"):
            await finder.get(unknown, request.recorded_at)
        with pytest.raises(Unrecognised, match="no record at offset"):
            await finder.get(unknown, request.recorded_at - SEARCH_AFTER_MS - 60_000)
        with pytest.raises(Unrecognised, match="no record at offset"):
            await finder.get(msgspec.structs.replace(moved(request, 0), partition=99), request.recorded_at)


async def test_one_search_tells_which_contents_have_expired(settings: Settings, searched: list[int]) -> None:
    async with open_runtime(settings, signals=False) as rt, open_content_reader(settings) as reader:
        [request] = await requests(rt, 1)
        finder = ContentFinder(reader, settings)
        expired = msgspec.structs.replace(moved(request, 1000), content_id="another")
        for minutes in (2000, 3000, 1000):
            with pytest.raises(Unrecognised, match="no record at offset"):
                await finder.get(expired, request.recorded_at - minutes * 60_000)
        assert len(searched) == 1
        content = await finder.get(moved(request, 1000), request.recorded_at)
    assert content.text == "content 0"
