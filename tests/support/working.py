"""A role at work in this process, until the end of a block."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings

Role = Callable[[Runtime], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def working(settings: Settings, role: Role, pool_size: int = 6) -> AsyncIterator[Runtime]:
    """With a runtime of its own."""
    async with open_runtime(settings, pool_size=pool_size) as rt, beside(rt, role):
        yield rt


@contextlib.asynccontextmanager
async def beside(rt: Runtime, role: Role) -> AsyncIterator[None]:
    """On the runtime of another, which goes on; at the end it stops as on SIGTERM, within ten seconds."""
    mine = dataclasses.replace(rt, stop=asyncio.Event())
    task = asyncio.create_task(role(mine))
    try:
        yield
    finally:
        mine.stop.set()
        async with asyncio.timeout(10):
            await task
