"""Pause a loop that runs until its role stops; the roles' background loops call it."""

import asyncio
import contextlib


async def sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    """Sleep for ``seconds``, or until ``stop`` is set."""
    # Not `wait_for`: Python 3.11's swallows a cancellation that comes at the moment at which the event is set.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
