"""End background tasks; what started them calls it when it stops."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

REPEAT_INTERVAL_S: Final = 1.0
"""Seconds after which a task that still runs is cancelled again."""


async def cancel_tasks(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel the tasks and wait until each has ended; their errors are retrieved, not raised.

    A task is cancelled until it ends: a library may swallow one cancellation, as Python 3.11's `wait_for` does, and
    whoever waits for the task would wait for ever.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=REPEAT_INTERVAL_S)
    await asyncio.gather(*tasks, return_exceptions=True)
