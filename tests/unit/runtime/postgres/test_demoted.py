"""Sessions that last notice that their server accepts no writes any more: listeners and the leader go elsewhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self, cast

import psycopg
import pytest

from pipeline.jobs import notify
from pipeline.runtime.postgres import leader
from tests.support.seeing import until


class MadeUpSession:
    """A session with a server that answers and whose transactions are read-only, or not."""

    def __init__(self, read_only: str) -> None:
        self.read_only = read_only

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute(self, *_: Any) -> "MadeUpSession":
        return self

    async def fetchone(self) -> tuple[str]:
        return (self.read_only,)

    async def notifies(self, **_: Any) -> AsyncIterator[None]:
        await asyncio.sleep(0.01)
        if self.read_only == "never":
            yield


async def test_listener_connects_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [MadeUpSession("off"), MadeUpSession("on")]
    connects = 0

    async def connect(*_: Any, **__: Any) -> MadeUpSession:
        nonlocal connects
        connects += 1
        return sessions.pop() if sessions else MadeUpSession("off")

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    monkeypatch.setattr(notify, "RECONNECT_DELAY_S", 0.01)
    listening = asyncio.create_task(notify.listen("", "jobs_emit", asyncio.Event()))
    await until(lambda: connects == 2)
    await asyncio.sleep(0.1)
    assert connects == 2, "a server that accepts writes is kept"
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


async def test_leader_gives_up_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "PING_INTERVAL_S", 0.01)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with asyncio.timeout(10):
            await leader._ping(cast("Any", MadeUpSession("on")))
