"""Cancel the work for a request whose client has gone; routes whose questions may take long call it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from fastapi import Request

from pipeline.errors import RoleStopped
from pipeline.gateway.problems import HttpProblem
from pipeline.runtime.tasks import cancel_tasks, run_unless

T = TypeVar("T")
CLIENT_LEFT_STATUS: Final = 503
"""The status that nobody reads; it is counted in the metrics."""


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; cancel it, and with it its statement in Postgres, when the client disconnects.

    Call it after the request's body was read. Raises HttpProblem when the client has gone.
    """
    left = asyncio.Event()
    watcher = asyncio.create_task(_watch_connection(request, left))
    try:
        return await run_unless(left, work)
    except RoleStopped:
        raise HttpProblem(CLIENT_LEFT_STATUS, "the client has gone") from None
    finally:
        await cancel_tasks([watcher])


async def _watch_connection(request: Request, left: asyncio.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    left.set()
