"""Faust's Kafka consumer, changed to deliver each fetched batch of a partition as one message.

Faust keeps group membership, assignment, flow control, recovery and the commit loop; its cost per message is paid
once per batch. Faust's own bookkeeping is per offset; it commits past a record that is still being processed, or
stops committing (faust-streaming issues 606 and 596). A batch states which offsets it covers, so that three offsets
per partition are enough:

- *fetched*: where the next fetched batch must begin. One that begins elsewhere is fetched again, from there.
- *claimed*: where the next batch that an agent claims must begin. A batch that was lost after the fetch (Faust clears
  queues when partitions move) shows as a gap here, and the partition is rewound.
- *position*: the end of the longest finished prefix; this is what is committed.

Every seek starts a new epoch of its partition, and every return to the committed offsets a new term. A batch of an
older epoch cannot be claimed; a batch that was claimed in an older term does not count when it is finished.

Faust loads this module by the scheme that :func:`register` adds; `app` calls that.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from faust.transport import drivers
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.transport.drivers.aiokafka import Transport as FaustTransport
from faust.types import TP

from pipeline.errors import LogUnavailable, MailfoldError, OffsetLost
from pipeline.runtime.observing.logs import get_logger
from pipeline.worker.streaming.fetch import BatchConsumerThread, FetchedBatch, FetchedMessage, OffsetRange

SCHEME: Final = "mailfold-kafka"
_log = get_logger("mailfold.worker")

LOST_BATCH_TIMEOUT_S: Final = 5.0
"""Seconds after which a batch that was fetched and never claimed is fetched again; if it arrives later, it is
discarded."""
REVOKE_TIMEOUT_S: Final = 2.0
"""Seconds for batches of webhooks to finish when partitions move. One may hold mail that takes a process seconds, and
a group removes a member that is silent for a minute. Discarded batches are read again and give the same events."""
BROKER_TIMEOUT_S: Final = 60.0
"""Seconds for one request to the brokers. After 90 (`broker_request_timeout`) Faust's recovery returns without an
error, and the worker keeps its partitions and never reads again."""


class BatchConsumer(FaustConsumer):
    """A Faust consumer that delivers batches instead of records and acknowledges by position."""

    logger = logging.getLogger("faust.transport")
    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_rebalancing = False
        self._term = 0
        self._epochs: dict[Any, int] = defaultdict(int)
        self._fetched: dict[Any, int] = {}
        self._claimed: dict[Any, int] = {}
        self._position: dict[Any, int] = {}
        self._refetched_gaps: dict[Any, int] = {}
        self._last_refetch: dict[Any, tuple[int, int]] = {}
        self._waiting_since: dict[Any, tuple[int, float]] = {}

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Fence each partition's earlier owner, then recover: nothing it still writes may follow the recovered end."""
        try:
            await self.app.writers.take_over(assigned)
        except MailfoldError as error:
            await self.app.crash(error)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Let Faust finish and commit the batches in progress, then forget the partitions."""
        timer = asyncio.get_running_loop().call_later(REVOKE_TIMEOUT_S, self._discard_slow_batches)
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            timer.cancel()
        await self.app.writers.release(revoked)
        self._buffered_partitions.clear()
        for tp in revoked:
            self._epochs[tp] += 1
            for offsets in (self._position, self._fetched, self._claimed):
                offsets.pop(tp, None)

    def _discard_slow_batches(self) -> None:
        """Discard the unfinished batches of topics without a writer; a writer's are written within seconds."""
        for message in list(self._unacked_messages):
            if message.tp.topic not in self.app.writers.topics:
                self.discard(message)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets after a rebalance, or to a partition's beginning where none is committed.

        aiokafka's `seek_to_committed` does not move a partition without a committed offset, so whatever was
        fetched before the rebalance would be skipped.
        """
        self._is_rebalancing = True
        self._term += 1
        ours = [tp for tp in self.assignment() if self.app.topics.acks_enabled_for(tp.topic)]
        async with _broker_timeout():
            committed = await self.seek_to_committed()
            first, end = await self.earliest_offsets(*ours), await self.highwaters(*ours)
            valid = {tp: _valid_offset(tp, committed.get(tp), first[tp], end[tp]) for tp in ours}
            targets = {tp: first[tp] if offset is None else offset for tp, offset in valid.items()}
            await self.seek_wait(targets)
        self._committed_offset.update(valid)
        self._position = dict(targets)

    async def earliest_offsets(self, *partitions: Any) -> Mapping[Any, int]:
        """Return each partition's first offset. Raises LogUnavailable after `BROKER_TIMEOUT_S`."""
        async with _broker_timeout():
            return await super().earliest_offsets(*partitions)

    async def highwaters(self, *partitions: Any) -> Mapping[Any, int]:
        """Return each partition's end offset. Raises LogUnavailable after `BROKER_TIMEOUT_S`."""
        async with _broker_timeout():
            return await super().highwaters(*partitions)

    def resume_flow(self) -> None:
        """Accept batches again. Not before: Faust empties the agents' queues just before it calls this."""
        super().resume_flow()
        self._is_rebalancing = False

    async def seek_wait(self, partitions: Mapping[Any, int]) -> None:
        """Seek and invalidate all batches fetched before. Raises LogUnavailable after `BROKER_TIMEOUT_S`."""
        async with _broker_timeout():
            await super().seek_wait(partitions)
        for tp, offset in partitions.items():
            self._epochs[tp] += 1
            self._fetched[tp] = self._claimed[tp] = offset

    async def _getmany(self, active_partitions: Any, timeout: float) -> Mapping[Any, list[FetchedBatch]]:  # noqa: ASYNC109
        """Return one batch per partition that continues the last one; seek back where a batch does not.

        A fetch whose response is lost (Faust cancels fetches while partitions move) shows as a start that is too
        large, even where no record follows it.
        """
        await self._rewind_lost_batches()
        epochs = dict(self._epochs)
        # A copy: the consumer's thread iterates over it while Faust pauses, resumes and revokes partitions in this one.
        spans: Mapping[Any, Any] = await self._thread.getmany(set(active_partitions), timeout)
        batches: dict[Any, list[FetchedBatch]] = {}
        for tp, span in spans.items():
            if span.end == span.start == self._fetched.get(tp):
                continue
            if epochs.get(tp, 0) == self._epochs[tp] and self._continues(tp, span):
                self._fetched[tp] = span.end
                batches[tp] = [FetchedBatch(span, epochs.get(tp, 0))]
            elif tp in self._fetched:
                await self._seek_back(tp, span.start)
        return batches

    async def _seek_back(self, tp: Any, fetched_start: int) -> None:
        """Seek to where the next batch must begin. Raises OffsetLost where the log no longer has that offset.

        aiokafka would then go to the log's beginning every time; a restart starts from the offsets that exist.
        """
        expected = self._fetched[tp]
        if fetched_start != expected and self._last_refetch.get(tp) == (expected, fetched_start):
            first, end = await self.earliest_offsets(tp), await self.highwaters(tp)
            if not first[tp] <= expected <= end[tp]:
                raise OffsetLost(f"{tp}: {expected} is to be read next, and the log has {first[tp]} to {end[tp]}")
        self._last_refetch[tp] = (expected, fetched_start)
        await super().seek_wait({tp: expected})

    async def _rewind_lost_batches(self) -> None:
        """Fetch again what was fetched and not claimed in time: no later batch may come that would show the gap."""
        unclaimed = {
            tp: claimed or 0 for tp in self._position if (claimed := self._claimed.get(tp)) != self._fetched.get(tp)
        }
        now = self.loop.time()
        self._waiting_since = {
            tp: wait if (wait := self._waiting_since.get(tp)) and wait[0] == claimed else (claimed, now)
            for tp, claimed in unclaimed.items()
        }
        lost = {
            tp: claimed for tp, (claimed, since) in self._waiting_since.items() if now - since > LOST_BATCH_TIMEOUT_S
        }
        if lost and not self._is_rebalancing:
            _log.warning(
                "fetched batches not claimed in time, fetching them again",
                offsets={_partition_name(tp): offset for tp, offset in lost.items()},
            )
            self._waiting_since.clear()
            await self.seek_wait(lost)

    def _continues(self, tp: Any, span: OffsetRange) -> bool:
        """Return whether a batch continues the last one.

        A gap before its first record is accepted only when a second fetch shows it, too: a rebalance or a seek at the
        same time can lose records of one fetch.
        """
        if self._fetched.get(tp) != span.start or (self._is_rebalancing and tp in self._position):
            return False
        if not span.records:
            return True
        first, last = span.records[0].offset, span.records[-1].offset
        if first < span.start or last >= span.end:
            return False
        if first == span.start or tp not in self._position or self._refetched_gaps.get(tp) == span.start:
            return True
        self._refetched_gaps[tp] = span.start
        return False

    def _to_message(self, tp: Any, record: Any) -> FetchedMessage:
        batch: FetchedBatch = record
        value: Any = batch
        message = FetchedMessage(
            *(tp.topic, tp.partition, batch.span.end - 1, 0.0, 0, None, None, value, None, 0, 0, TP(*tp)),
            generation_id=self.app.consumer_generation_id,
        )
        message.term = self._term
        return message

    async def claim(self, message: Any) -> bool:
        """Claim this batch if it is the next of its partition, else discard it; return whether it was claimed.

        Where a batch before it was lost, the partition is rewound.
        """
        batch, tp = message.value, message.tp
        if batch.epoch == self._epochs[tp] and message.generation_id == self.app.consumer_generation_id:
            if batch.span.start == self._claimed.get(tp):
                self._claimed[tp] = batch.span.end
                return True
            _log.warning("batch lost, fetching it again", partition=_partition_name(tp), before=batch.span.start)
            if tp in self._claimed:
                await self.seek_wait({tp: self._claimed[tp]})
        self.discard(message)
        return False

    def holds(self, message: Any) -> bool:
        """Return whether a claimed batch may still be finished: nothing moved its partition since it was fetched."""
        is_current = message.value.epoch == self._epochs[message.tp] and message.term == self._term
        return is_current and not message.acked and message.generation_id == self.app.consumer_generation_id

    def discard(self, message: Any) -> None:
        """Drop this batch without finishing it; Faust no longer waits for it."""
        if message.acked:
            return
        message.acked = True
        self._unacked_messages.discard(message)
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)

    def ack(self, message: Any) -> bool:
        """Finish a batch; return whether it moved the position.

        A batch claimed in an older term does not: it was fetched again after the return to the committed offsets.
        Raises OffsetLost where a batch before it is not finished.
        """
        if message.acked:
            return False
        self.discard(message)
        tp, span = message.tp, message.value.span
        if message.term != self._term or tp not in self._position:
            return False
        if span.start != self._position[tp]:
            raise OffsetLost(f"{tp}: {span.start} is finished while {self._position[tp]} is missing")
        self._position[tp] = span.end
        return True

    def mark_committed(self, message: Any) -> None:
        """Finish a batch whose end was committed in the transaction that wrote its results."""
        if self.ack(message):
            self._committed_offset[message.tp] = message.value.span.end
            self._thread.tp_last_committed_at[message.tp] = self.loop.time()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[Any]:
        """Return the partitions that Faust's commit loop commits: those whose offsets are not in transactions."""
        transactional = self.app.writers.topics
        partitions = [tp for tp in self._position if tp.topic not in transactional]
        return (tp for tp in partitions if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: Any) -> int | None:
        return self._position.get(tp)

    def _should_commit(self, tp: Any, offset: int) -> bool:
        return bool(offset > (self._committed_offset[tp] or 0))

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:  # Faust counts a failed commit as done and would never repeat it
            self._committed_offset.update(before)
        return bool(committed)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Do nothing: gaps in the log are handled when a batch is fetched, not offset by offset."""


class BatchTransport(FaustTransport):
    """Faust's Kafka transport with :class:`BatchConsumer`."""

    Consumer = BatchConsumer


def register() -> None:
    """Let Faust find this transport by its scheme."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:BatchTransport"


@contextlib.asynccontextmanager
async def _broker_timeout() -> AsyncIterator[None]:
    """Raise LogUnavailable after `BROKER_TIMEOUT_S`: the worker then ends, and its next start asks again."""
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise LogUnavailable(f"the brokers did not answer within {BROKER_TIMEOUT_S} s") from error


def _partition_name(tp: Any) -> str:
    """Return a topic partition as operators write it."""
    return f"{tp.topic}/{tp.partition}"


def _valid_offset(tp: Any, committed: int | None, first: int, end: int) -> int | None:
    """Return the committed offset if the log still has it; None: read from the beginning."""
    if committed is None or first <= committed <= end:
        return committed
    if committed < first:
        _log.error(
            "records were removed from the log before they were read",
            partition=_partition_name(tp),
            first=committed,
            last=first - 1,
        )
    else:
        _log.error(
            "committed offset is beyond the log's end, reading from the beginning",
            partition=_partition_name(tp),
            committed=committed,
            end=end,
        )
    return None
