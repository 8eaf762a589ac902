"""Run and end the tasks of a role."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Final, TypeVar

from pipeline.errors import PermanentError, RoleStopped
from topics.codec import NewerRecord

REPEAT_INTERVAL_S: Final = 1.0
"""Seconds after which a task that still runs is cancelled again."""

T = TypeVar("T")


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


def is_cancelled() -> bool:
    """Return whether somebody cancelled the current task.

    A CancelledError in a task that nobody cancelled comes from within a library, and is a failure.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; where ``stop`` is set earlier, cancel it and raise RoleStopped.

    It returns when ``work`` has ended, so that nothing stays open that it had opened.
    """
    if stop.is_set():
        work.close()
        raise RoleStopped
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_tasks((working, stopping))
    if working.cancelled() and stop.is_set():
        raise RoleStopped
    return working.result()


async def run_loops(*loops: Coroutine[Any, Any, None]) -> None:
    """Run a role's loops until all have ended; an error in one cancels the others and is raised.

    Without one of its loops a role would only seem to work; so it is an error, too, if one is cancelled from within,
    which a TaskGroup would take for an orderly end. An error that tells an operator what to do is raised alone,
    so that it is printed as one sentence; others as an ExceptionGroup.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(_run_loop(loop))
    except ExceptionGroup as errors:
        raise next(
            (each for each in errors.exceptions if isinstance(each, PermanentError | NewerRecord)), errors
        ) from None


async def _run_loop(loop: Coroutine[Any, Any, None]) -> None:
    try:
        await loop
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise RuntimeError("a loop was cancelled from within") from error
