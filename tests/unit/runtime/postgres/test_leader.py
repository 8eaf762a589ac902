"""A reader of the log notices that its consumer was sent back to the beginning."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition

from pipeline.errors import LogTooShort
from pipeline.runtime.postgres.leader import ReaderOffsets
from pipeline.settings import Settings
from topics.registry import PROVIDER_ACKS

PLACE = TopicPartition(PROVIDER_ACKS.name, 0)


def test_batch_from_before_the_next_offset_is_not_what_follows() -> None:
    rt: Any = SimpleNamespace(settings=Settings())
    offsets = ReaderOffsets(rt, (PROVIDER_ACKS,), cast("Any", {}))
    offsets.next_offsets[PLACE] = 20
    offsets.require_following(PLACE, 20)
    offsets.require_following(PLACE, 27)
    assert offsets.lost == {}
    with pytest.raises(LogTooShort, match="was read up to offset 20, but ends at 5"):
        offsets.require_following(PLACE, 5)
    assert list(offsets.lost) == [PLACE]
