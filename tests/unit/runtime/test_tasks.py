"""Tests of ending background tasks."""

import asyncio
import contextlib

import pytest

from pipeline.errors import RoleStopped
from pipeline.runtime import tasks
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import cancel_tasks, run_loops, run_unless


async def test_task_that_swallows_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "REPEAT_INTERVAL_S", 0.01)
    swallowed: list[int] = []

    async def work() -> None:
        while len(swallowed) < 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed.append(1)
        await asyncio.sleep(3600)

    stubborn, obedient = asyncio.create_task(work()), asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    await cancel_tasks([stubborn, obedient])
    assert (len(swallowed), stubborn.cancelled(), obedient.cancelled()) == (2, True, True)


async def test_errors_of_ended_tasks_are_retrieved_and_not_raised() -> None:
    async def fail() -> None:
        raise ValueError

    failed = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await cancel_tasks([failed])
    assert failed.done()


async def test_cancellation_at_the_moment_of_the_stop_is_not_lost() -> None:
    stop = asyncio.Event()
    sleeping = asyncio.create_task(sleep_unless(stop, 3600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stop.set()
    sleeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sleeping
    assert sleeping.cancelled()


async def test_result_of_work_that_ends_before_the_stop_is_returned() -> None:
    async def work() -> int:
        return 5

    async def fail() -> None:
        raise LookupError

    stop = asyncio.Event()
    assert await run_unless(stop, work()) == 5
    with pytest.raises(LookupError):
        await run_unless(stop, fail())


async def test_stop_cancels_work_and_waits_until_it_has_closed_what_it_opened() -> None:
    stop, closed = asyncio.Event(), []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    asyncio.get_running_loop().call_soon(stop.set)
    with pytest.raises(RoleStopped):
        await run_unless(stop, work())
    assert closed == [True]


async def test_cancellation_reaches_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    running = asyncio.create_task(run_unless(asyncio.Event(), work()))
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert (running.cancelled(), ended.is_set()) == (True, True)


async def test_loop_that_is_cancelled_from_within_ends_the_role() -> None:
    """A library's CancelledError looks like an orderly end; the role would go on without its loop."""

    async def work() -> None:
        raise asyncio.CancelledError

    async def other() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(ExceptionGroup) as raised:
        await run_loops(work(), other())
    assert [str(error) for error in raised.value.exceptions] == ["a loop was cancelled from within"]


async def test_loops_that_are_cancelled_from_outside_are_no_error() -> None:
    running = asyncio.create_task(run_loops(asyncio.sleep(3600)))
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
