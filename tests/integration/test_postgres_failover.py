"""The primary is lost under load and its standby is promoted: roles wait, go over to it, and lose nothing."""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from pipeline import admin
from pipeline.dispatch import main as dispatch
from pipeline.project import main as project
from pipeline.settings import Settings
from tests.conftest import RING
from tests.support.dispatching import FAST
from tests.support.fasttrack import activity, message
from tests.support.gateway import Gateway, gateway
from tests.support.postgres_server import PostgresServer, postgres_server, standby_of
from tests.support.seeing import rows, until
from tests.support.smtp_receiver import smtp_receiver
from tests.support.working import beside

pytestmark = pytest.mark.ci


@pytest.fixture
async def pair(server_folder: Path) -> AsyncIterator[tuple[PostgresServer, PostgresServer]]:
    folder = server_folder / secrets.token_hex(4)
    async with postgres_server(folder / "first") as primary, standby_of(primary, folder / "second") as standby:
        yield primary, standby


def both(primary: PostgresServer, standby: PostgresServer) -> SecretStr:
    parts = urlsplit(primary.url)
    login = parts.netloc.rpartition("@")[0]
    return SecretStr(urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{primary.port},127.0.0.1:{standby.port}")))


async def post_until(served: Gateway, stop: asyncio.Event, accepted: set[str], statuses: dict[int, int]) -> None:
    """Post emails, each again until it is accepted, as an upstream service does."""
    number = 0
    while not stop.is_set():
        number += 1
        recipient = f"player{number}@example.com"
        body = [message(f"m{number}", email=recipient, activity=activity(id=f"m{number}", brand_id=7))]
        while True:
            answer = await served.post(body)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            if answer.status_code == 200:
                accepted.add(recipient)
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", [signal.SIGQUIT, signal.SIGINT])
async def test_roles_go_over_to_the_promoted_standby(
    settings: Settings, pair: tuple[PostgresServer, PostgresServer], way: signal.Signals
) -> None:
    primary, standby = pair
    own = settings.model_copy(update={"database_url": both(primary, standby), **FAST})
    accepted: set[str] = set()
    statuses: dict[int, int] = {}
    stop = asyncio.Event()
    async with (
        smtp_receiver() as mails,
        gateway(own) as served,
        beside(served.rt, dispatch.run),
        beside(served.rt, project.run),
    ):
        await admin.add_provider(served.rt.pool, admin.Provider("local", host="127.0.0.1", port=mails.port), RING)
        await admin.add_brand(served.rt.pool, admin.Brand("acme", "7", "local"))
        posting = asyncio.create_task(post_until(served, stop, accepted, statuses))
        await until(lambda: len(mails.mails) > 20)
        await primary.stop(way)
        before = len(accepted)
        await asyncio.sleep(1)
        assert (await served.http.get("/readyz")).status_code == 503
        standby.promote()
        await until(lambda: len(accepted) > before + 20, 30)
        stop.set()
        await posting
        await until(lambda: accepted <= {mail.recipient for mail in mails.mails}, 30)
        assert set(statuses) <= {200, 503}
        assert (await served.http.get("/readyz")).status_code == 200
        [(server_port,)] = await rows(served.rt, "select inet_server_port()")
        assert server_port == standby.port


async def test_demoted_primary_is_left(settings: Settings, pair: tuple[PostgresServer, PostgresServer]) -> None:
    """The old primary lives on and only refuses writes, as one that a failover manager has fenced."""
    primary, standby = pair
    own = settings.model_copy(update={"database_url": both(primary, standby)})
    async with gateway(own) as served:
        assert (await served.post([message("before")])).status_code == 200
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("alter system set default_transaction_read_only = on")
            connection.execute("select pg_reload_conf()")
        statuses = set()
        with contextlib.suppress(httpx.HTTPError):
            for number in range(5):
                statuses.add((await served.post([message(f"during{number}")])).status_code)
        assert statuses <= {200, 503}
        assert 503 in statuses
        standby.promote()

        async def is_accepted() -> bool:
            return (await served.post([message("after")])).status_code == 200

        await until(is_accepted, 30)
        [(server_port,)] = await rows(served.rt, "select inet_server_port()")
        assert server_port == standby.port
