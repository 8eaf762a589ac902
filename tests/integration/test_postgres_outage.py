"""Postgres is away for longer than pools try to reconnect: every way of using the database heals by itself."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.postgres import database
from pipeline.settings import Settings
from tests.support.all_roles import all_roles
from tests.support.dispatching import FAST
from tests.support.fasttrack import message
from tests.support.gateway import Gateway
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.seeing import until

RECONNECT_TIMEOUT_S = 0.5
OUTAGE_S = 5.0


@pytest.fixture
async def server(server_folder: Path) -> AsyncIterator[PostgresServer]:
    async with postgres_server(server_folder / secrets.token_hex(4)) as running:
        yield running


async def start_role(settings: Settings) -> None:
    async with open_runtime(settings, role="project"):
        pass


async def is_ready(served: Gateway) -> bool:
    return (await served.http.get("/readyz")).status_code == 200


async def test_every_role_heals_after_an_outage_longer_than_pools_try(
    settings: Settings, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "RECONNECT_TIMEOUT_S", RECONNECT_TIMEOUT_S)
    own = settings.model_copy(update={"database_url": SecretStr(server.url), **FAST})
    async with all_roles(own) as roles:
        served = roles.served
        await roles.check(1)
        await server.stop()
        starting = asyncio.create_task(start_role(own))
        await asyncio.sleep(OUTAGE_S)
        assert not starting.done(), "a role that is started during the outage has to wait"
        assert (await served.post([message("during")])).status_code == 503
        ready = await served.http.get("/readyz")
        assert (ready.status_code, list(ready.json()["problems"])) == (503, ["postgres"])
        await server.start()
        await until(lambda: is_ready(served), 30)
        async with asyncio.timeout(30):
            await starting
        await roles.check(2)
