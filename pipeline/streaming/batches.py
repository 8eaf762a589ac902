"""A Faust stream in, runs of records out; finished together, in order, once their work is confirmed."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from pipeline.folding import Found
from topics.record import Place
from topics.registry import Topic

BATCH: Final = 1000
WITHIN: Final = 0.005
"""Seconds that a batch waits to fill: the hop's share of the latency, paid when there is little to do."""


class Batch:
    """Records in the order in which they came."""

    def __init__(self, events: list[Any], consumer: Any, topics: Mapping[str, Topic]) -> None:
        self._messages = [event.message for event in events]
        self._consumer = consumer
        self._topics = topics

    def records(self) -> list[Found]:
        """Those that still count, with their places."""
        return [self._found(message) for message in self._messages if self._consumer.is_current(message)]

    def by_partition(self) -> dict[int, list[Found]]:
        """The records, partition by partition: a partition's facts meet that partition's states."""
        grouped: dict[int, list[Found]] = defaultdict(list)
        for found in self.records():
            grouped[found.place.partition].append(found)
        return dict(grouped)

    def ack(self) -> None:
        """All work on these is confirmed: their offsets may be committed."""
        for message in self._messages:
            message.ack(self._consumer)

    def _found(self, message: Any) -> Found:
        topic = self._topics[message.topic]
        place = Place(topic=topic.name, partition=message.partition, offset=message.offset)
        return Found(topic, place, message.key, message.value)


async def batches(stream: Any, topics: Mapping[str, Topic]) -> AsyncIterator[Batch]:
    """`noack` first: without it, `noack_take` loses events when it ends (faust/streams.py)."""
    async for events in stream.noack().noack_take(BATCH, within=WITHIN):
        yield Batch(events, stream.app.consumer, topics)
