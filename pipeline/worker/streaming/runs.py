"""A Faust stream in, runs out: what was fetched of a partition at once, to be finished at once."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pipeline.worker.fold_batch import RecordBatch
from pipeline.worker.streaming.commit_batch import FoldResult
from pipeline.worker.streaming.partitions import PartitionWriters
from topics.registry import Topic


class AgentBatch:
    """Consecutive records of one partition, in an agent's hands."""

    def __init__(self, message: Any, topic: Topic, consumer: Any, lanes: PartitionWriters) -> None:
        self._message = message
        self._topic = topic
        self._consumer = consumer
        self._lanes = lanes

    def record_batch(self) -> RecordBatch:
        """The records and where they lie."""
        return RecordBatch(self._topic, self._message.partition, self._message.value.span.records)

    def states(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes | None]:
        """The states of this partition as they are before this run. Raises NotOurs."""
        return self._lanes[self._message.partition].read(keys)

    async def claim_for_writer(self) -> bool:
        """Whether this run is next in its partition's lane and the lane has room for it."""
        if not await self._consumer.claim(self._message):
            return False
        if await self._lanes[self._message.partition].wait_for_room():
            return True
        self._consumer.discard(self._message)
        return False

    def add(self, step: FoldResult) -> None:
        """Write what came of this run and commit its end, in one transaction, after the runs before it."""
        self._lanes[self._message.partition].add(self._message, step)

    async def claim(self) -> bool:
        """Whether this run is next in a partition that has no lane."""
        return bool(await self._consumer.claim(self._message))

    def ack(self) -> None:
        """All that came of this run is confirmed: its end may be committed."""
        self._consumer.ack(self._message)


async def claimed_batches(
    stream: Any, topics: Mapping[str, Topic], lanes: PartitionWriters
) -> AsyncIterator[AgentBatch]:
    """`noack`: a run is finished when its work is confirmed, not when the agent asks for the next one."""
    consumer = stream.app.consumer
    async for event in stream.noack().events():
        run = AgentBatch(event.message, topics[event.message.topic], consumer, lanes)
        if await (run.claim_for_writer() if event.message.topic in lanes.topics else run.claim()):
            yield run
