"""Our consumer's bookkeeping, without a broker: what is acknowledged in which order moves the position how far."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.errors import Vanished
from pipeline.streaming.transport import Consumer

T = TP("facts", 0)


class Bare(Consumer):
    """The bookkeeping alone: no app, no thread, no broker."""

    def __init__(self) -> None:
        self.app: Any = SimpleNamespace(consumer_generation_id=1)
        self._epoch = self._fetch_epoch = 0
        self._position: dict[Any, int] = {T: 5}
        self._fetched: dict[Any, int] = {T: 5}
        self._looked_again: dict[Any, int] = {}
        self._committed_offset: Any = {T: 5}
        self._unacked_messages: Any = set()
        self._waiting_for_ack = None
        self._held = False

    def fetch(self, *offsets: int, generation: int = 1) -> list[Any]:
        self.app.consumer_generation_id = generation
        return [self._to_message(T, record(offset)) for offset in offsets]


def record(offset: int) -> Any:
    return SimpleNamespace(
        topic=T.topic,
        partition=T.partition,
        offset=offset,
        timestamp=1,
        timestamp_type=0,
        headers=(),
        key=b"k",
        value=b"v",
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=1,
    )


@pytest.fixture
def consumer() -> Bare:
    return Bare()


def test_acks_in_order_move_the_position_to_the_first_unfinished_record(consumer: Bare) -> None:
    for message in consumer.fetch(5, 6, 7)[:2]:
        assert consumer.ack(message)
    assert consumer._new_offset(T) == 7
    assert consumer._should_commit(T, 7)
    assert not consumer._should_commit(T, 5)


def test_an_ack_twice_counts_once(consumer: Bare) -> None:
    (message,) = consumer.fetch(5)
    assert consumer.ack(message)
    assert not consumer.ack(message)
    assert consumer._new_offset(T) == 6


def test_a_record_that_vanished_stops_the_worker_instead_of_being_skipped(consumer: Bare) -> None:
    _, second = consumer.fetch(5, 6)
    with pytest.raises(Vanished, match="6 arrived while 5 is missing"):
        consumer.ack(second)
    assert consumer._new_offset(T) == 5


def test_a_hole_in_the_log_itself_is_no_loss(consumer: Bare) -> None:
    for message in consumer.fetch(5, 8, 9):
        assert consumer.ack(message)
    assert consumer._new_offset(T) == 10


def test_acks_of_before_a_seek_count_for_nothing(consumer: Bare) -> None:
    before = consumer.fetch(5, 6)
    consumer._epoch += 1
    consumer._fetched[T] = 5
    assert not any(consumer.ack(message) for message in before)
    assert consumer._new_offset(T) == 5


def test_acks_of_another_generation_count_for_nothing(consumer: Bare) -> None:
    (message,) = consumer.fetch(5)
    consumer.app.consumer_generation_id = 2
    assert not consumer.ack(message)
    assert consumer._new_offset(T) == 5


def test_a_partition_that_went_away_is_not_committed(consumer: Bare) -> None:
    (message,) = consumer.fetch(5)
    consumer._position.pop(T)
    assert not consumer.ack(message)
    assert consumer._new_offset(T) is None


def test_a_hole_at_the_head_of_a_run_is_believed_when_seen_twice(consumer: Bare) -> None:
    assert not consumer._follows_on(T, [record(9)])
    assert consumer._follows_on(T, [record(9)])


def test_nothing_is_taken_between_a_seek_and_the_emptying_of_the_queues(consumer: Bare) -> None:
    consumer._held = True
    assert not consumer._follows_on(T, [record(5)])
    consumer._held = False
    assert consumer._follows_on(T, [record(5)])


def test_a_run_that_follows_on_is_taken_and_one_without_a_known_place_is_not(consumer: Bare) -> None:
    assert consumer._follows_on(T, [record(5)])
    assert not consumer._follows_on(TP("facts", 1), [record(5)])
    assert not consumer._follows_on(T, [record(3)])
    assert not consumer._follows_on(T, [record(3)])


async def test_a_commit_that_failed_is_made_again(consumer: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: Any, offsets: Any, start_new_transaction: bool = True) -> bool:
        self._committed_offset.update(offsets)  # as Faust does, whatever became of it
        return False

    monkeypatch.setattr("faust.transport.consumer.Consumer._commit_offsets", fails)
    assert not await consumer._commit_offsets({T: 7})
    assert consumer._should_commit(T, 7)
