"""Test that a pause ends after its time or when the role stops, whichever comes first."""

import asyncio

import pytest

from pipeline.runtime.sleep import sleep_unless


async def test_sleep_lasts_its_time_while_stop_is_not_set() -> None:
    clock = asyncio.get_running_loop().time
    started_at = clock()
    await sleep_unless(asyncio.Event(), 0.05)
    assert clock() - started_at >= 0.04


async def test_sleep_ends_when_stop_is_set() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    async with asyncio.timeout(10):
        await sleep_unless(stop, 600)
    assert stop.is_set()


async def test_cancelled_sleep_is_cancelled() -> None:
    task = asyncio.create_task(sleep_unless(asyncio.Event(), 600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
