"""Test that FairThreads is bounded, shares its threads among callers, and works as an executor."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from pipeline.runtime.fair_threads import CURRENT_CALLER, FairThreads


@pytest.fixture
def pool() -> Iterator[FairThreads]:
    threads = FairThreads(4)
    yield threads
    threads.shutdown()


def submit(pool: FairThreads, caller: str, gate: threading.Event, order: list[str]) -> "Future[None]":
    def work() -> None:
        order.append(caller)
        assert gate.wait(20)

    token = CURRENT_CALLER.set(caller)
    try:
        return pool.submit(work)
    finally:
        CURRENT_CALLER.reset(token)


def wait_until_started(order: list[str], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(order) < count:
        assert time.monotonic() < deadline, order
        time.sleep(0.001)


def test_caller_with_a_long_queue_leaves_a_thread_to_another(pool: FairThreads) -> None:
    gate, order = threading.Event(), list[str]()
    futures = [submit(pool, "big", gate, order) for _ in range(50)]
    wait_until_started(order, 3)
    futures.append(submit(pool, "small", gate, order))
    wait_until_started(order, 4)
    assert order == ["big", "big", "big", "small"]
    gate.set()
    for future in futures:
        future.result(20)
    assert len(order) == 51


def test_waiting_callers_take_turns(pool: FairThreads) -> None:
    gate, order = threading.Event(), list[str]()
    blocked = [submit(pool, name, gate, order) for name in ("a", "b", "c", "d")]
    wait_until_started(order, 4)
    waiting = [submit(pool, "a", gate, order) for _ in range(20)] + [submit(pool, "late", gate, order)]
    gate.set()
    for future in blocked + waiting:
        future.result(20)
    assert "late" in order[4:10], "it must not wait for all twenty calls of another caller"


def test_error_is_raised_to_the_caller_and_frees_the_thread(pool: FairThreads) -> None:
    def fail() -> None:
        raise ValueError("no")

    for _ in range(10):
        with pytest.raises(ValueError, match="no"):
            pool.submit(fail).result(20)
    assert pool.submit(lambda: 5).result(20) == 5


class Body(bytearray):
    """Bytes that can be referred to weakly."""


def test_failed_call_keeps_no_reference_to_its_arguments(pool: FairThreads) -> None:
    def fail(body: Body) -> None:
        raise ValueError(len(body))

    references = []
    gc.disable()
    try:
        for _ in range(3):
            body = Body(10)
            references.append(weakref.ref(body))
            with pytest.raises(ValueError, match="10"):
                pool.submit(fail, body).result(20)
        del body
        # The thread deletes the last call a moment after it has set the result.
        pool.shutdown()
        assert [reference() for reference in references] == [None, None, None]
    finally:
        gc.enable()


def test_waiting_calls_are_cancelled_at_shutdown() -> None:
    pool, gate, order = FairThreads(1), threading.Event(), list[str]()
    first, second = (submit(pool, "a", gate, order) for _ in range(2))
    wait_until_started(order, 1)
    threading.Timer(0.05, gate.set).start()
    pool.shutdown()
    assert first.done()
    assert second.cancelled()


def test_default_executor_passes_the_caller_to_its_threads() -> None:
    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(FairThreads(2))
        CURRENT_CALLER.set("acme")
        return await asyncio.to_thread(CURRENT_CALLER.get)

    assert asyncio.run(main()) == "acme"
