"""The batches that agents process: what one fetch returned of a partition, claimed and finished as a whole."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pipeline.worker.fold_batch import RecordBatch
from pipeline.worker.streaming.commit_batch import FoldResult
from pipeline.worker.streaming.partitions import PartitionWriters
from topics.registry import Topic


class AgentBatch:
    """Consecutive records of one partition that an agent has claimed."""

    def __init__(self, message: Any, topic: Topic, consumer: Any, writers: PartitionWriters) -> None:
        self._message = message
        self._topic = topic
        self._consumer = consumer
        self._writers = writers

    def record_batch(self) -> RecordBatch:
        """Return the records with their topic and partition."""
        return RecordBatch(self._topic, self._message.partition, self._message.value.span.records)

    def states(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes | None]:
        """Return this partition's states as they are before this batch. Raises PartitionNotAssigned."""
        return self._writers[self._message.partition].read(keys)

    def confirm_claim(self) -> bool:
        """Return whether the claim still holds after a wait; else discard the batch, which is fetched again."""
        if self._consumer.holds(self._message):
            return True
        self._consumer.discard(self._message)
        return False

    async def claim_for_writer(self) -> bool:
        """Claim this batch if it is the next of its partition, and wait until its writer has room; else discard it."""
        if not await self._consumer.claim(self._message):
            return False
        if await self._writers[self._message.partition].wait_for_room():
            return True
        self._consumer.discard(self._message)
        return False

    def add(self, result: FoldResult) -> None:
        """Queue this batch's result; one transaction writes it and commits the batch's end, in order."""
        self._writers[self._message.partition].add(self._message, result)

    async def claim(self) -> bool:
        """Claim this batch if it is the next of its partition, which has no writer; otherwise discard it."""
        return bool(await self._consumer.claim(self._message))

    def ack(self) -> None:
        """Finish this batch, so that its end may be committed. Call it once all its results are confirmed."""
        self._consumer.ack(self._message)


async def claimed_batches(
    stream: Any, topics: Mapping[str, Topic], writers: PartitionWriters
) -> AsyncIterator[AgentBatch]:
    """Yield each batch of the stream that can be claimed.

    With `noack`, Faust does not acknowledge a batch when the agent asks for the next one: the batch is finished when
    its results are confirmed.
    """
    consumer = stream.app.consumer
    async for event in stream.noack().events():
        batch = AgentBatch(event.message, topics[event.message.topic], consumer, writers)
        if await (batch.claim_for_writer() if event.message.topic in writers.topics else batch.claim()):
            yield batch
