"""Blocking work in; its result out, without holding up the end of the process."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_background(work: Callable[[], T]) -> T:
    """Like asyncio.to_thread, but Ctrl-C needn't wait for a download to end: the thread dies with the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # handed to whoever waits
            _tell(loop, _fail, future, error)
        else:
            _tell(loop, _settle, future, result)

    threading.Thread(target=run, daemon=True, name="background").start()
    return await future


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *values: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle, *values)


def _settle(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
