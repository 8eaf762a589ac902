"""Our consumer's bookkeeping, without a broker: which batches are accepted and counted, and what is committed."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.errors import LogUnavailable, OffsetLost
from pipeline.worker.streaming import transport
from pipeline.worker.streaming.fetch import OffsetRange
from pipeline.worker.streaming.transport import BatchConsumer

T = TP("facts", 0)


class Bare(BatchConsumer):
    """The bookkeeping alone: no app, no thread, no broker; what is sought is noted."""

    def __init__(self) -> None:
        topics = SimpleNamespace(acks_enabled_for=lambda _: True)
        writers = SimpleNamespace(topics={"elsewhere"}, take_over=self.take_over, release=self.release)
        self.app: Any = SimpleNamespace(consumer_generation_id=1, writers=writers, topics=topics)
        self._loop = asyncio.new_event_loop()
        self._thread: Any = self
        self._is_rebalancing, self._term = False, 0
        self._epochs = defaultdict(int)
        self._fetched: dict[Any, int] = {T: 5}
        self._claimed: dict[Any, int] = {T: 5}
        self._position: dict[Any, int] = {T: 5}
        self._refetched_gaps: dict[Any, int] = {}
        self._last_refetch: dict[Any, tuple[int, int]] = {}
        self._waiting_since: dict[Any, tuple[int, float]] = {}
        self._committed_offset: Any = {T: 5}
        self._unacked_messages: Any = set()
        self._waiting_for_ack = None
        self.spans: list[OffsetRange] = []
        self.asked: Any = None
        self.sought: list[int] = []
        self.meanwhile = False
        self.silent = False
        self.locked_out = False
        self.events: list[str] = []
        self._buffered_partitions = {T}
        self.app.crash = self.ended
        self.kept = (0, 100)
        self.known: int | None = 5

    async def take_over(self, assigned: Any) -> None:
        self.events.append("fenced")
        if self.locked_out:
            raise LogUnavailable("no transactions")

    async def release(self, revoked: Any) -> None:
        self.events.append("let go")

    async def ended(self, reason: Exception) -> None:
        self.events.append(f"crashed: {reason}")

    async def answer(self, found: Any) -> Any:
        """What the brokers say, if they do."""
        if self.silent:
            await asyncio.sleep(60)
        return found

    def assignment(self) -> set[Any]:
        return {T}

    async def seek_to_committed(self) -> Any:
        return await self.answer({T: self.known})

    async def getmany(self, partitions: Any, _timeout: float) -> dict[Any, OffsetRange]:  # type: ignore[override]
        self.asked = partitions
        if self.meanwhile:
            await self.seek_wait({T: 5})
        return {T: self.spans.pop(0)} if self.spans else {}

    async def fetch(self, span: OffsetRange) -> Any:
        """The message that comes of it, or None."""
        self.spans.append(span)
        runs = await self._getmany({T}, 0)
        return self._to_message(T, runs[T][0]) if T in runs else None


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Bare:
    async def seek_wait(self: Bare, partitions: Any) -> None:
        await self.answer(None)
        self.sought += partitions.values()

    async def earliest_offsets(self: Bare, *partitions: Any) -> Any:
        return await self.answer(dict.fromkeys(partitions, self.kept[0]))

    async def highwaters(self: Bare, *partitions: Any) -> Any:
        return await self.answer(dict.fromkeys(partitions, self.kept[1]))

    async def on_partitions_assigned(self: Bare, *_: Any) -> None:
        self.events.append("recovered")

    async def on_partitions_revoked(self: Bare, *_: Any) -> None:
        self.events.append("finished")

    for told in (on_partitions_assigned, on_partitions_revoked, seek_wait, earliest_offsets, highwaters):
        monkeypatch.setattr(f"faust.transport.drivers.aiokafka.Consumer.{told.__name__}", told)
    return Bare()


def span(start: int, end: int, *offsets: int) -> OffsetRange:
    return OffsetRange(start, end, [SimpleNamespace(offset=offset) for offset in offsets or range(start, end)])


async def test_consecutive_batches_are_claimed_and_finished_in_order(consumer: Bare) -> None:
    first, second = await consumer.fetch(span(5, 8)), await consumer.fetch(span(8, 9))
    assert await consumer.claim(first)
    assert await consumer.claim(second)
    assert consumer.ack(first)
    assert (consumer._new_offset(T), consumer._should_commit(T, 8), consumer._should_commit(T, 5)) == (8, True, False)
    assert consumer.ack(second)
    assert not consumer.ack(second)
    assert consumer._new_offset(T) == 9


async def test_batch_may_end_after_its_last_record(consumer: Bare) -> None:
    """Transaction markers and what compaction removed take offsets, too."""
    message = await consumer.fetch(span(5, 12, 5, 7, 9))
    assert await consumer.claim(message)
    assert consumer.ack(message)
    assert consumer._new_offset(T) == 12
    assert message.offset == 11


async def test_batch_with_wrong_start_is_fetched_again(consumer: Bare) -> None:
    assert await consumer.fetch(span(7, 9)) is None
    assert consumer.sought == [5]
    assert await consumer.fetch(span(5, 9)) is not None


async def test_lost_fetch_is_noticed_without_later_records(consumer: Bare) -> None:
    assert await consumer.fetch(OffsetRange(9, 9, [])) is None
    assert consumer.sought == [5]


async def test_batch_fetched_across_a_seek_is_fetched_again(consumer: Bare) -> None:
    consumer.meanwhile = True
    assert await consumer.fetch(span(5, 6)) is None
    assert consumer.sought == [5, 5]


async def test_gap_is_accepted_when_two_fetches_show_it(consumer: Bare) -> None:
    assert await consumer.fetch(span(5, 9, 7, 8)) is None
    assert consumer.sought == [5]
    message = await consumer.fetch(span(5, 9, 7, 8))
    assert await consumer.claim(message)
    assert consumer.ack(message)
    assert consumer._new_offset(T) == 9


async def test_batch_lost_before_its_claim_rewinds_the_partition(consumer: Bare) -> None:
    await consumer.fetch(span(5, 6))
    later = await consumer.fetch(span(6, 7))
    assert not await consumer.claim(later)
    assert consumer.sought == [5]
    assert later.acked
    again = await consumer.fetch(span(5, 7))
    assert await consumer.claim(again)


async def test_unclaimed_batch_is_fetched_again_after_timeout(consumer: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    await consumer.fetch(span(5, 6))
    await consumer.fetch(OffsetRange(6, 6, []))
    assert consumer.sought == []
    monkeypatch.setattr(transport, "LOST_BATCH_TIMEOUT_S", -1)
    assert await consumer.fetch(OffsetRange(6, 6, [])) is None
    assert consumer.sought[0] == 5


async def test_batches_fetched_before_a_seek_are_not_claimed(consumer: Bare) -> None:
    before = await consumer.fetch(span(5, 6))
    await consumer.seek_wait({T: 5})
    assert not await consumer.claim(before)
    assert before.acked
    assert consumer._new_offset(T) == 5


async def test_batch_claimed_before_a_rewind_still_counts(consumer: Bare) -> None:
    before = await consumer.fetch(span(5, 6))
    assert await consumer.claim(before)
    await consumer.seek_wait({T: 6})
    assert consumer.ack(before)
    assert consumer._new_offset(T) == 6


async def test_batch_claimed_in_an_older_term_does_not_count(consumer: Bare) -> None:
    before = await consumer.fetch(span(5, 6))
    assert await consumer.claim(before)
    consumer._term += 1
    assert not consumer.ack(before)
    assert consumer._new_offset(T) == 5


async def test_batches_of_another_generation_are_not_claimed(consumer: Bare) -> None:
    message = await consumer.fetch(span(5, 6))
    consumer.app.consumer_generation_id = 2
    assert not await consumer.claim(message)


async def test_faust_may_change_its_partitions_during_a_fetch(consumer: Bare) -> None:
    """The fetch runs in a thread of its own: a set that changed under it ended the worker with a RuntimeError."""
    active = {T}
    await consumer._getmany(active, 0)
    active.clear()
    assert consumer.asked == {T}


async def test_finishing_out_of_order_raises(consumer: Bare) -> None:
    first, second = await consumer.fetch(span(5, 6)), await consumer.fetch(span(6, 7))
    assert await consumer.claim(first)
    assert await consumer.claim(second)
    with pytest.raises(OffsetLost, match="6 is finished while 5 is missing"):
        consumer.ack(second)
    assert consumer._new_offset(T) == 5


async def test_no_batch_is_returned_until_faust_has_emptied_the_queues(
    consumer: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued then is thrown away by Faust, and the hole would show only at the next record."""
    consumer._is_rebalancing = True
    assert await consumer.fetch(span(5, 6)) is None
    monkeypatch.setattr("faust.transport.consumer.Consumer.resume_flow", lambda _: None)
    consumer.resume_flow()
    assert await consumer.fetch(span(5, 6)) is not None


async def test_transactional_offsets_are_not_committed_again(consumer: Bare) -> None:
    consumer._position[TP("elsewhere", 0)] = 7
    assert list(consumer._filter_tps_with_pending_acks()) == [T]


async def test_failed_commit_is_repeated(consumer: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: Any, offsets: Any, start_new_transaction: bool = True) -> bool:
        self._committed_offset.update(offsets)  # as Faust does, whatever became of it
        return False

    monkeypatch.setattr("faust.transport.consumer.Consumer._commit_offsets", fails)
    assert not await consumer._commit_offsets({T: 7})
    assert consumer._should_commit(T, 7)


async def test_offset_missing_from_the_log_raises(consumer: Bare) -> None:
    """aiokafka would go to the log's beginning at every seek."""
    consumer.kept = (5, 9)
    assert await consumer.fetch(span(7, 9)) is None
    assert await consumer.fetch(span(7, 9)) is None  # lost on its way twice
    assert consumer.sought == [5, 5]
    consumer.kept = (7, 9)
    with pytest.raises(OffsetLost, match="5 is to be read next, and the log has 7 to 9"):
        await consumer.fetch(span(7, 9))


async def test_truncated_log_raises(consumer: Bare) -> None:
    consumer.kept = (0, 3)
    assert await consumer.fetch(span(0, 3)) is None
    with pytest.raises(OffsetLost, match="5 is to be read next, and the log has 0 to 3"):
        await consumer.fetch(span(0, 3))


@pytest.mark.parametrize("question", ["earliest_offsets", "highwaters", "seek_wait", "perform_seek"])
async def test_silent_brokers_raise(question: str, consumer: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust's own timeout ends its recovery only: the worker would keep its partitions and never read."""
    monkeypatch.setattr(transport, "BROKER_TIMEOUT_S", 0.01)
    consumer.silent = True
    arguments = {"seek_wait": ({T: 5},), "perform_seek": ()}.get(question, (T,))
    with pytest.raises(LogUnavailable, match="did not answer"):
        await getattr(consumer, question)(*arguments)


async def test_committed_offset_outside_the_log_is_replaced(consumer: Bare) -> None:
    for committed, log, position in ((5, (0, 9), 5), (0, (0, 9), 0), (9, (0, 9), 9), (None, (3, 9), 3)):
        consumer.known, consumer.kept = committed, log
        await consumer.perform_seek()
        assert (consumer._new_offset(T), consumer.sought[-1]) == (position, position)
    for committed, log in ((5, (7, 9)), (12, (7, 9)), (0, (7, 9))):
        consumer.known, consumer.kept = committed, log
        await consumer.perform_seek()
        assert (consumer._new_offset(T), consumer.sought[-1]) == (7, 7)
        assert consumer._should_commit(T, 8)


async def test_earlier_owner_is_fenced_before_recovery_reads_the_end_offset(consumer: Bare) -> None:
    await consumer.on_partitions_assigned({T})
    assert consumer.events == ["fenced", "recovered"]


async def test_failed_fencing_crashes_the_worker(consumer: Bare) -> None:
    consumer.locked_out = True
    await consumer.on_partitions_assigned({T})
    assert consumer.events == ["fenced", "crashed: no transactions", "recovered"]


async def test_revocation_finishes_batches_and_forgets_partitions(
    consumer: Bare,
) -> None:
    run = await consumer.fetch(span(5, 6))
    await consumer.on_partitions_revoked({T})
    assert consumer.events == ["finished", "let go"]
    assert list(consumer._filter_tps_with_pending_acks()) == []
    assert consumer._buffered_partitions == set()
    consumer._claimed[T] = 5  # the partition is assigned again
    assert not await consumer.claim(run)
    assert await consumer.fetch(span(6, 7)) is None


async def test_batch_claimed_before_perform_seek_does_not_count(consumer: Bare) -> None:
    before = await consumer.fetch(span(5, 6))
    assert await consumer.claim(before)
    await consumer.perform_seek()
    assert not consumer.ack(before)
    assert await consumer.fetch(span(5, 6)) is None  # Faust will empty the agents' queues once more


async def test_mark_committed_records_the_commit(consumer: Bare) -> None:
    consumer._thread = SimpleNamespace(tp_last_committed_at={}, getmany=consumer.getmany)
    run = await consumer.fetch(span(5, 6))
    assert await consumer.claim(run)
    consumer.mark_committed(run)
    assert not consumer._should_commit(T, 6)
    assert T in consumer._thread.tp_last_committed_at


async def test_finished_or_discarded_batch_does_not_delay_a_rebalance(consumer: Bare) -> None:
    """Faust waits for every message that it knows of, and is woken by each that is done."""
    for end in (consumer.ack, consumer.discard):
        run = await consumer.fetch(span(consumer._fetched[T], consumer._fetched[T] + 1))
        assert await consumer.claim(run)
        consumer._unacked_messages.add(run)
        waiting = consumer._waiting_for_ack = asyncio.get_running_loop().create_future()
        end(run)
        assert consumer._unacked_messages == set()
        assert waiting.done()


async def test_records_outside_their_range_are_fetched_again(consumer: Bare) -> None:
    assert await consumer.fetch(span(5, 7, 4, 6)) is None
    assert await consumer.fetch(span(5, 7, 6, 7)) is None
    assert consumer.sought == [5, 5]


async def test_changelog_may_have_gaps(consumer: Bare) -> None:
    """It is compacted, and has no position that is committed: a second look would only take time."""
    consumer._position.clear()
    assert await consumer.fetch(span(5, 9, 8)) is not None
    assert consumer.sought == []


async def test_empty_fetch_is_no_batch(consumer: Bare) -> None:
    assert await consumer.fetch(OffsetRange(5, 5, [])) is None
    assert consumer.sought == []


async def test_slow_batches_do_not_delay_a_rebalance(consumer: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REVOKE_TIMEOUT_S", 0.01)

    async def wait_empty(self: Bare, *_: Any) -> None:
        while self._unacked_messages:
            await asyncio.sleep(0.001)

    monkeypatch.setattr("faust.transport.drivers.aiokafka.Consumer.on_partitions_revoked", wait_empty)
    slow = await consumer.fetch(span(5, 9))
    assert await consumer.claim(slow)
    consumer._unacked_messages.add(slow)
    async with asyncio.timeout(5):
        await consumer.on_partitions_revoked({T})
    consumer._position = {T: 5}
    assert not consumer.ack(slow), "it is read again"
    assert consumer._new_offset(T) == 5


async def test_revocation_waits_for_batches_of_a_writer(
    consumer: Bare,
) -> None:
    consumer.app.writers.topics = {T.topic}
    message = await consumer.fetch(span(5, 9))
    consumer._unacked_messages.add(message)
    consumer._discard_slow_batches()
    assert not message.acked
