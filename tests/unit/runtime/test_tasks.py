"""Tests of ending background tasks."""

import asyncio
import contextlib

import pytest

from pipeline.runtime import tasks
from pipeline.runtime.sleep import sleep_unless
from pipeline.runtime.tasks import cancel_tasks


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
