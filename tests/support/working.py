"""Run a role in this process until the end of a block."""

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
    """Run a role with its own runtime until the end of the block, and yield the runtime."""
    async with open_runtime(settings, pool_size=pool_size) as rt, beside(rt, role):
        yield rt


@contextlib.asynccontextmanager
async def beside(rt: Runtime, role: Role) -> AsyncIterator[None]:
    """Run a role on an open runtime until the end of the block, where it must stop within ten seconds as on SIGTERM."""
    own = dataclasses.replace(rt, stop=asyncio.Event())
    task = asyncio.create_task(role(own))
    try:
        yield
    finally:
        own.stop.set()
        async with asyncio.timeout(10):
            await task
