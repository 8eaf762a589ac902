"""Postgres is away for longer than pools try to reconnect: every way of using the database heals by itself."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.dispatch import main as dispatch
from pipeline.emit import main as emit
from pipeline.project import main as project
from pipeline.runtime import database
from pipeline.runtime.bootstrap import open_runtime
from pipeline.settings import Settings
from tests.integration.test_emit import destine
from tests.support.changes import Log, acked, event, identified, request
from tests.support.dispatching import FAST, accept, provide
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.http_receiver import FastTrack, http_receiver
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.projecting import publish
from tests.support.seeing import rows, until
from tests.support.smtp_receiver import Receiver, smtp_receiver
from tests.support.working import beside
from topics.events import EventKind

RECONNECT_TIMEOUT_S = 0.5
OUTAGE_S = 5.0


@pytest.fixture
async def server(server_folder: Path) -> AsyncIterator[PostgresServer]:
    async with postgres_server(server_folder / secrets.token_hex(4)) as running:
        yield running


async def check_every_role(served: Gateway, mails: Receiver, conversions: FastTrack, number: int) -> None:
    """Send an email and a conversion through every loop that uses Postgres."""
    answer = await served.post([message(f"m{number}")])
    assert answer.status_code == 200, answer.text
    # The dispatcher's leader reads the log into jobs, and its engine is notified of them.
    [sent] = await accept(served.rt, f"player{number}@example.com")
    await until(lambda: sent.recipient in [mail.recipient for mail in mails.mails], 30)
    now = served.rt.clock()
    before = len(conversions.seen)
    log = Log().fold(request(number, now)).fold(acked(number, now)).fold(event(number, EventKind.DELIVERED, now))
    await publish(served.rt, log.changes)
    # The projector writes rows and the conversion's job; the emitter sends it.
    await until(lambda: len(conversions.seen) > before, 30)
    query = "select status from projections.history where email_id = %s"
    assert await rows(served.rt, query, identified(number)) == [("delivered",)]


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
    async with (
        smtp_receiver() as mails,
        http_receiver() as conversions,
        gateway(own) as served,
        beside(served.rt, dispatch.run),
        beside(served.rt, project.run),
        beside(served.rt, emit.run),
    ):
        await provide(served.rt, mails.port)
        for brand in "12":
            await destine(served.rt, conversions.url, brand)
        await check_every_role(served, mails, conversions, 1)
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
        await check_every_role(served, mails, conversions, 2)
