"""What the console reads of the installation: how long it is shown again, and who may see it."""

import asyncio
from typing import Any, cast

import pytest

from pipeline import admin
from pipeline.admin import ApiKey, Tenant
from pipeline.errors import LogUnavailable
from pipeline.gateway.console.reading import STATUS_TIMEOUT_S, STATUS_TTL_S, ConsoleReader
from pipeline.gateway.console.sessions import Viewer
from pipeline.operations import status


class FakeRuntime:
    """What the reader needs of a runtime."""

    pool = None


def reader_at(now: list[float]) -> ConsoleReader:
    return ConsoleReader(cast("Any", FakeRuntime()), cast("Any", None), lambda: now[0])


async def test_who_waits_while_kafka_is_away_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [100.0], []

    async def read_status(_: Any) -> Any:
        reads.append(now[0])
        await asyncio.sleep(0)
        now[0] += STATUS_TIMEOUT_S
        raise LogUnavailable

    monkeypatch.setattr(status, "read_status", read_status)
    reader = reader_at(now)
    states = await asyncio.gather(*(reader.status() for _ in range(5)))
    assert reads == [100.0]
    assert {state.snapshot for state in states} == {None}
    assert "Kafka or Postgres" in states[0].problem
    now[0] += STATUS_TTL_S
    await reader.status()
    assert len(reads) == 2


async def test_second_tenant_ends_the_view_of_the_installation_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = [("acme",)]

    async def fetch_rows(*_: Any) -> list[Any]:
        return tenants

    monkeypatch.setattr(admin, "fetch_rows", fetch_rows)
    viewer = Viewer(ApiKey("a", Tenant("acme"), stored_hash=b"a"), b"", "")
    reader = reader_at([1.0])
    assert await reader.sees_installation(viewer)
    tenants.append(("other",))
    assert not await reader.sees_installation(viewer)
