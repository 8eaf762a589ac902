"""When a producer is replaced, by what, and that closing the old one ends."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, OutOfOrderSequenceNumber, ProducerClosed

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka import renewable_producer
from pipeline.runtime.kafka.clients import close_producer
from pipeline.runtime.kafka.renewable_producer import RenewableProducer, oldest_batch_age_s
from pipeline.settings import Settings

SETTINGS = Settings(kafka_bootstrap="127.0.0.1:1")


class FakeProducer:
    """An aiokafka producer as far as it is asked; ``reachable`` says whether it can start."""

    def __init__(self, reachable: bool = True, hangs: bool = False) -> None:
        self.reachable, self.hangs = reachable, hangs
        self.is_stopped = self.is_closed = False
        self.failed_with: BaseException | None = None
        self._sender = SimpleNamespace(sender_task=asyncio.get_running_loop().create_future())
        self._message_accumulator = SimpleNamespace(
            _batches={}, _pending_batches=set(), _batch_ttl=40.0, fail_all=self._fail_all
        )
        self.client = SimpleNamespace(close=self._close)

    async def start(self) -> None:
        if not self.reachable:
            raise KafkaConnectionError

    async def stop(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        self.is_stopped = True

    def queue_batch(self, age_s: float) -> None:
        self._message_accumulator._batches["topic", 0] = [SimpleNamespace(_ctime=time.monotonic() - age_s)]

    def send_batch_in_flight(self, age_s: float) -> None:
        self._message_accumulator._pending_batches = {_Batch(time.monotonic() - age_s)}

    def _fail_all(self, error: BaseException) -> None:
        self.failed_with = error

    async def _close(self) -> None:
        self.is_closed = True


class _Batch:
    def __init__(self, created_at: float) -> None:
        self._ctime = created_at


async def opened(*made: FakeProducer) -> RenewableProducer:
    """Return an open producer that is replaced by the others, in order."""
    remaining: list[Any] = list(made)
    producers = RenewableProducer(SETTINGS, lambda: remaining.pop(0))
    await producers.open()
    return producers


def failed(error: Exception) -> "asyncio.Future[Any]":
    sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    sent.set_exception(error)
    return sent


@pytest.fixture(autouse=True)
def _no_pause_between_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewable_producer, "MIN_RENEWAL_INTERVAL_S", 0.0)


async def test_producer_without_a_sign_of_trouble_stays() -> None:
    first = FakeProducer()
    producers = await opened(first)
    first.queue_batch(age_s=1)
    first.send_batch_in_flight(age_s=2)
    assert not await producers.renew_if_broken()
    assert producers.current is first
    assert producers.find_problem() == ""


async def test_producer_is_replaced_after_a_failed_batch_and_closed() -> None:
    first, second = FakeProducer(), FakeProducer()
    producers = await opened(first, second)
    producers.track(producers.current, failed(OutOfOrderSequenceNumber()))
    await asyncio.sleep(0)
    assert producers.find_problem() == "a batch failed (OutOfOrderSequenceNumber)"
    assert await producers.renew_if_broken()
    assert producers.current is second
    assert producers.find_problem() == ""
    await asyncio.wait_for(_until(lambda: first.is_stopped), 5)


@pytest.mark.parametrize("hold", [FakeProducer.queue_batch, FakeProducer.send_batch_in_flight])
async def test_producer_is_replaced_when_a_batch_stays_unconfirmed(hold: Callable[[FakeProducer, float], None]) -> None:
    first, second = FakeProducer(), FakeProducer()
    producers = await opened(first, second)
    hold(first, renewable_producer.STALLED_AFTER_S + 1)
    assert await producers.renew_if_broken()
    assert producers.current is second


async def test_problem_is_told_before_the_producer_is_replaced() -> None:
    first = FakeProducer()
    producers = await opened(first)
    first.queue_batch(age_s=6)
    assert producers.find_problem(5) == "a batch is unconfirmed for 6 s"
    assert not await producers.renew_if_broken()


async def test_producer_whose_sender_ended_is_replaced() -> None:
    first, second = FakeProducer(), FakeProducer()
    producers = await opened(first, second)
    first._sender.sender_task.set_result(None)
    assert await producers.renew_if_broken()
    assert producers.current is second


async def test_producer_stays_until_another_can_start() -> None:
    first, unreachable, third = FakeProducer(), FakeProducer(reachable=False), FakeProducer()
    producers = await opened(first, unreachable, third)
    producers.track(first, failed(OutOfOrderSequenceNumber()))
    await asyncio.sleep(0)
    assert not await producers.renew_if_broken()
    assert producers.current is first
    assert unreachable.is_stopped
    assert await producers.renew_if_broken()
    assert producers.current is third


async def test_failure_of_a_replaced_producer_does_not_replace_its_successor() -> None:
    first, second = FakeProducer(), FakeProducer()
    producers = await opened(first, second)
    late: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    producers.track(producers.current, late)
    first._sender.sender_task.set_result(None)
    assert await producers.renew_if_broken()
    late.set_exception(ProducerClosed())
    await asyncio.sleep(0)
    assert not await producers.renew_if_broken()
    assert producers.current is second


async def test_producers_are_not_replaced_more_often_than_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FakeProducer(), FakeProducer()
    producers = await opened(first, second)
    producers.track(first, failed(OutOfOrderSequenceNumber()))
    await asyncio.sleep(0)
    monkeypatch.setattr(renewable_producer, "MIN_RENEWAL_INTERVAL_S", 1000.0)
    assert not await producers.renew_if_broken()
    monkeypatch.setattr(renewable_producer, "MIN_RENEWAL_INTERVAL_S", 0.0)
    assert await producers.renew_if_broken()


async def test_watching_replaces_a_producer_as_soon_as_a_batch_fails() -> None:
    first, second = FakeProducer(), FakeProducer()
    producers = await opened(first, second)
    watching = asyncio.create_task(producers.watch())
    producers.track(first, failed(OutOfOrderSequenceNumber()))
    await asyncio.wait_for(_until(lambda: producers.current is second), 5)
    watching.cancel()


async def test_unreachable_brokers_are_an_error_at_the_first_start() -> None:
    with pytest.raises(LogUnavailable, match="does not answer"):
        await opened(FakeProducer(reachable=False))


async def test_close_ends_although_the_flush_does_not() -> None:
    stuck: Any = FakeProducer(hangs=True)
    await close_producer(stuck, 0.01, 0.01)
    assert stuck._sender.sender_task.cancelled()
    assert isinstance(stuck.failed_with, ProducerClosed)
    assert stuck.is_closed


async def test_oldest_batch_is_queued_or_in_flight() -> None:
    producer: Any = FakeProducer()
    assert oldest_batch_age_s(producer) == 0
    producer.queue_batch(age_s=5)
    producer.send_batch_in_flight(age_s=50)
    assert 50 <= oldest_batch_age_s(producer) < 60


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def test_watch_ends_when_it_is_cancelled_at_the_moment_of_a_failure() -> None:
    producers = RenewableProducer(SETTINGS, FakeProducer)
    await producers.open()
    watching = asyncio.create_task(producers.watch())
    await asyncio.sleep(0)
    producers._wake.set()
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait([watching], timeout=5)
    assert watching.cancelled()
