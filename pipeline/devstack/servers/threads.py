"""Run blocking work, such as a download, in a thread that does not delay the end of the process."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_background(work: Callable[[], T]) -> T:
    """Run ``work`` in a daemon thread, and return its result or raise its error.

    Unlike with asyncio.to_thread, the process can end while the work is under way, as after Ctrl-C.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # raised by the await below
            _call_soon(loop, _set_error, future, error)
        else:
            _call_soon(loop, _set_result, future, result)

    threading.Thread(target=run, daemon=True, name="background").start()
    return await future


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, so the result is not needed
        loop.call_soon_threadsafe(function, *arguments)


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_error(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
