"""The gateway's threads: bounded, shared by callers, and an executor like any other."""

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
    made = FairThreads(4)
    yield made
    made.shutdown()


def submit(pool: FairThreads, caller: str, gate: threading.Event, order: list[str]) -> "Future[None]":
    def work() -> None:
        order.append(caller)
        assert gate.wait(20)

    token = CURRENT_CALLER.set(caller)
    try:
        return pool.submit(work)
    finally:
        CURRENT_CALLER.reset(token)


def begun(order: list[str], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(order) < count:
        assert time.monotonic() < deadline, order
        time.sleep(0.001)


def test_a_caller_with_a_long_queue_leaves_a_thread_to_another(pool: FairThreads) -> None:
    gate, order = threading.Event(), list[str]()
    futures = [submit(pool, "big", gate, order) for _ in range(50)]
    begun(order, 3)
    futures.append(submit(pool, "small", gate, order))
    begun(order, 4)
    assert order == ["big", "big", "big", "small"]
    gate.set()
    for future in futures:
        future.result(20)
    assert len(order) == 51


def test_callers_that_wait_take_turns(pool: FairThreads) -> None:
    gate, order = threading.Event(), list[str]()
    blocked = [submit(pool, name, gate, order) for name in ("a", "b", "c", "d")]
    begun(order, 4)
    waiting = [submit(pool, "a", gate, order) for _ in range(20)] + [submit(pool, "late", gate, order)]
    gate.set()
    for future in blocked + waiting:
        future.result(20)
    assert "late" in order[4:10], "it does not wait for all of another's twenty"


def test_an_error_is_the_callers_and_frees_the_thread(pool: FairThreads) -> None:
    def fail() -> None:
        raise ValueError("no")

    for _ in range(10):
        with pytest.raises(ValueError, match="no"):
            pool.submit(fail).result(20)
    assert pool.submit(lambda: 5).result(20) == 5


class Body(bytearray):
    """Bytes that can be referred to weakly."""


def test_a_failed_call_keeps_nothing_of_what_it_was_given(pool: FairThreads) -> None:
    def fail(body: Body) -> None:
        raise ValueError(len(body))

    given = []
    gc.disable()
    try:
        for _ in range(3):
            body = Body(10)
            given.append(weakref.ref(body))
            with pytest.raises(ValueError, match="10"):
                pool.submit(fail, body).result(20)
        del body
        # The thread drops the last call a moment after its result is there.
        pool.shutdown()
        assert [reference() for reference in given] == [None, None, None]
    finally:
        gc.enable()


def test_what_waits_is_cancelled_at_the_end() -> None:
    pool, gate, order = FairThreads(1), threading.Event(), list[str]()
    first, second = (submit(pool, "a", gate, order) for _ in range(2))
    begun(order, 1)
    threading.Timer(0.05, gate.set).start()
    pool.shutdown()
    assert first.done()
    assert second.cancelled()


def test_a_loops_threads_know_their_caller() -> None:
    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(FairThreads(2))
        CURRENT_CALLER.set("acme")
        return await asyncio.to_thread(CURRENT_CALLER.get)

    assert asyncio.run(main()) == "acme"
