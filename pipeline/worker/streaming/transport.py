"""Faust's Kafka consumer, made to hand over whole runs: what is fetched of a partition at once, as one message.

Faust keeps group membership, assignment, flow control, recovery and the commit loop; its price per
message is paid once per run. Faust's own bookkeeping is per offset, and commits past a record in
flight or sticks (faust-streaming issues 606 and 596). A run says which offsets it spans, so that
three numbers per partition are enough:

- *fetched*: where the next run must begin. Another beginning is fetched again, from there.
- *taken*: where the next run must begin for its agent. A run that vanished on its way (Faust clears
  queues when partitions move) shows here, and the partition is rewound.
- *position*: the end of the longest finished prefix; what is committed.

Every seek begins an epoch of its partition, and every return to what is committed a new term: a run
of an older epoch is not taken, one taken in an older term does not count when it is finished.
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
from pipeline.worker.streaming.fetch import BatchConsumerThread, FetchedBatch, FetchedMessage, OffsetRange

SCHEME: Final = "mailfold-kafka"
_log = logging.getLogger("mailfold.worker")

LOST_BATCH_TIMEOUT_S: Final = 5.0
"""Seconds after which a run that is fetched and not taken is fetched again; if it comes after all, it is void."""
REVOKE_TIMEOUT_S: Final = 2.0
"""For what lies in no lane when partitions move: a run may hold mail that takes a process seconds, and a group whose
member is silent for a minute goes on without it. What is dropped is read again, and gives the same events."""
BROKER_TIMEOUT_S: Final = 60.0
"""Seconds for one question to the brokers. After 90 (`broker_request_timeout`) Faust takes their silence for the
worker's end: its recovery returns without a word, and the worker keeps its partitions and never reads again."""


class BatchConsumer(FaustConsumer):
    """Runs instead of records; acknowledgements by position."""

    logger = logging.getLogger("faust.transport")
    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held = False
        self._term = 0
        self._epochs: dict[Any, int] = defaultdict(int)
        self._fetched: dict[Any, int] = {}
        self._taken: dict[Any, int] = {}
        self._position: dict[Any, int] = {}
        self._looked_again: dict[Any, int] = {}
        self._strayed: dict[Any, tuple[int, int]] = {}
        self._waits: dict[Any, tuple[int, float]] = {}

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Fence first: what a frozen predecessor still writes must not land after recovery fixed its end."""
        try:
            await self.app.lanes.take_over(assigned)
        except MailfoldError as error:
            await self.app.crash(error)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Finish what is in hand (super does, and commits), then forget the partitions."""
        patience = asyncio.get_running_loop().call_later(REVOKE_TIMEOUT_S, self._drop_slow)
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            patience.cancel()
        await self.app.lanes.let_go(revoked)
        self._buffered_partitions.clear()
        for tp in revoked:
            self._epochs[tp] += 1
            for numbers in (self._position, self._fetched, self._taken):
                numbers.pop(tp, None)

    def _drop_slow(self) -> None:
        """Drop the runs that lie in no lane; a lane's are written within seconds."""
        for message in [one for one in self._unacked_messages if one.tp.topic not in self.app.lanes.topics]:
            self.discard(message)

    async def perform_seek(self) -> None:
        """After a rebalance: back to what is committed, or to the beginning.

        aiokafka's `seek_to_committed` seeks nowhere where nothing is committed yet, so what was
        fetched before the rebalance would be skipped.
        """
        self._held = True
        self._term += 1
        ours = [tp for tp in self.assignment() if self.app.topics.acks_enabled_for(tp.topic)]
        async with _answered():
            committed = await self.seek_to_committed()
            first, end = await self.earliest_offsets(*ours), await self.highwaters(*ours)
            known = {tp: _still_there(tp, committed.get(tp), first[tp], end[tp]) for tp in ours}
            targets = {tp: first[tp] if offset is None else offset for tp, offset in known.items()}
            await self.seek_wait(targets)
        self._committed_offset.update(known)
        self._position = dict(targets)

    async def earliest_offsets(self, *partitions: Any) -> Mapping[Any, int]:
        """Raises LogUnavailable; see `PATIENCE`."""
        async with _answered():
            return await super().earliest_offsets(*partitions)

    async def highwaters(self, *partitions: Any) -> Mapping[Any, int]:
        """Raises LogUnavailable; see `PATIENCE`."""
        async with _answered():
            return await super().highwaters(*partitions)

    def resume_flow(self) -> None:
        """Faust empties the agents' queues just before this: what they held since the seek would be gone."""
        super().resume_flow()
        self._held = False

    async def seek_wait(self, partitions: Mapping[Any, int]) -> None:
        """Move; what was fetched before is void. Raises LogUnavailable; see `PATIENCE`."""
        async with _answered():
            await super().seek_wait(partitions)
        for tp, offset in partitions.items():
            self._epochs[tp] += 1
            self._fetched[tp] = self._taken[tp] = offset

    async def _getmany(self, active_partitions: Any, timeout: float) -> Mapping[Any, list[FetchedBatch]]:  # noqa: ASYNC109
        """A run per partition that follows on what was fetched before; for any other, look again.

        A fetch whose answer is lost (Faust cancels while partitions move) shows as a beginning too
        far on, even where nothing comes after it.
        """
        await self._rewind_what_vanished()
        epochs = dict(self._epochs)
        spans: Mapping[Any, Any] = await self._thread.getmany(active_partitions, timeout)
        runs: dict[Any, list[FetchedBatch]] = {}
        for tp, span in spans.items():
            if span.end == span.start == self._fetched.get(tp):
                continue
            if epochs.get(tp, 0) == self._epochs[tp] and self._follows_on(tp, span):
                self._fetched[tp] = span.end
                runs[tp] = [FetchedBatch(span, epochs.get(tp, 0))]
            elif tp in self._fetched:
                await self._look_again(tp, span.start)
        return runs

    async def _look_again(self, tp: Any, found: int) -> None:
        """Back to where the next run must begin. Raises Vanished where the log has no such place any more.

        aiokafka turns to the log's beginning then, as often as it is sent back; a restart starts from what is there.
        """
        wanted = self._fetched[tp]
        if found != wanted and self._strayed.get(tp) == (wanted, found):
            first, end = await self.earliest_offsets(tp), await self.highwaters(tp)
            if not first[tp] <= wanted <= end[tp]:
                raise OffsetLost(f"{tp}: {wanted} is to be read next, and the log has {first[tp]} to {end[tp]}")
        self._strayed[tp] = (wanted, found)
        await super().seek_wait({tp: wanted})

    async def _rewind_what_vanished(self) -> None:
        """A run can be lost behind the fetch, too, and then nothing may ever come that shows the hole."""
        waiting = {tp: taken or 0 for tp in self._position if (taken := self._taken.get(tp)) != self._fetched.get(tp)}
        now = self.loop.time()
        self._waits = {
            tp: known if (known := self._waits.get(tp)) and known[0] == taken else (taken, now)
            for tp, taken in waiting.items()
        }
        lost = {tp: taken for tp, (taken, since) in self._waits.items() if now - since > LOST_BATCH_TIMEOUT_S}
        if lost and not self._held:
            _log.warning("nothing was heard of what was fetched; fetching it again: %s", lost)
            self._waits.clear()
            await self.seek_wait(lost)

    def _follows_on(self, tp: Any, span: OffsetRange) -> bool:
        """A hole is believed when it is seen twice: a rebalance can lose a fetch, and so can a seek meanwhile."""
        if self._fetched.get(tp) != span.start or (self._held and tp in self._position):
            return False
        if not span.records:
            return True
        first, last = span.records[0].offset, span.records[-1].offset
        if first < span.start or last >= span.end:
            return False
        if first == span.start or tp not in self._position or self._looked_again.get(tp) == span.start:
            return True
        self._looked_again[tp] = span.start
        return False

    def _to_message(self, tp: Any, record: Any) -> FetchedMessage:
        run: FetchedBatch = record
        carried: Any = run
        message = FetchedMessage(
            *(tp.topic, tp.partition, run.span.end - 1, 0.0, 0, None, None, carried, None, 0, 0, TP(*tp)),
            generation_id=self.app.consumer_generation_id,
        )
        message.term = self._term
        return message

    async def claim(self, message: Any) -> bool:
        """Whether its agent may begin this run. Where one before it vanished, the partition is rewound."""
        run, tp = message.value, message.tp
        if run.epoch == self._epochs[tp] and message.generation_id == self.app.consumer_generation_id:
            if run.span.start == self._taken.get(tp):
                self._taken[tp] = run.span.end
                return True
            _log.warning("%s: a run vanished before %s; fetching it again", tp, run.span.start)
            if tp in self._taken:
                await self.seek_wait({tp: self._taken[tp]})
        self.discard(message)
        return False

    def discard(self, message: Any) -> None:
        """Nobody works on this run any more, and it counts for nothing."""
        if message.acked:
            return
        message.acked = True
        self._unacked_messages.discard(message)
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)

    def ack(self, message: Any) -> bool:
        """Finish a run. One taken before the last return to what is committed was fetched again and counts then.

        Raises Vanished where a run before it is not finished: finishing is in order.
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
        """Finish a run whose end is committed already, in the transaction that wrote what came of it."""
        if self.ack(message):
            self._committed_offset[message.tp] = message.value.span.end
            self._thread.tp_last_committed_at[message.tp] = self.loop.time()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[Any]:
        """What Faust's commit loop commits: nothing of the topics whose offsets lie in transactions."""
        elsewhere = self.app.lanes.topics
        wanted = [tp for tp in self._position if tp.topic not in elsewhere]
        return (tp for tp in wanted if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: Any) -> int | None:
        return self._position.get(tp)

    def _should_commit(self, tp: Any, offset: int) -> bool:
        return bool(offset > (self._committed_offset[tp] or 0))

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:  # else a failed commit would count as made, and stick
            self._committed_offset.update(before)
        return bool(committed)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Holes in the log are seen when it is fetched; no bookkeeping per offset."""


class BatchTransport(FaustTransport):
    """Faust's transport with our consumer."""

    Consumer = BatchConsumer


def register() -> None:
    """Let Faust find this transport by its scheme."""
    drivers.TRANSPORTS.aliases[SCHEME] = f"{__name__}:BatchTransport"


@contextlib.asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    """In time, or LogUnavailable: that ends the worker, and its successor asks anew."""
    try:
        async with asyncio.timeout(BROKER_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise LogUnavailable(f"the brokers did not answer within {BROKER_TIMEOUT_S} s") from error


def _still_there(tp: Any, committed: int | None, first: int, end: int) -> int | None:
    """What is committed, as far as the log still has it; None is the beginning."""
    if committed is None or first <= committed <= end:
        return committed
    if committed < first:
        _log.error("%s: records %s to %s were removed from the log before they were read", tp, committed, first - 1)
    else:
        _log.error(
            "%s: %s is committed, but the log ends at %s; reading it again from its beginning", tp, committed, end
        )
    return None
