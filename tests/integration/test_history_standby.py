"""Listings are read from a standby; from the primary while the standby is away or behind a listing."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from pipeline.gateway import history_reader
from pipeline.settings import Settings
from tests.integration.test_history_api import Grown, get, ids
from tests.support.changes import T0, acked, identified, request
from tests.support.gateway import Gateway, gateway
from tests.support.logs import LogLines, captured_log_lines
from tests.support.postgres_server import PostgresServer, postgres_server, standby_of
from tests.support.seeing import until

pytestmark = pytest.mark.ci

LATE = 200
"""An email that is sent before all others and projected after them, so that it belongs to the last page."""


@pytest.fixture
async def pair(server_folder: Path) -> AsyncIterator[tuple[PostgresServer, PostgresServer]]:
    folder = server_folder / secrets.token_hex(4)
    async with postgres_server(folder / "first") as primary, standby_of(primary, folder / "second") as standby:
        yield primary, standby


def execute(server: PostgresServer, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(query)  # type: ignore[arg-type,unused-ignore]
        return cursor.fetchall() if cursor.description else []


async def listed(served: Gateway, **params: str) -> list[str]:
    answer = await get(served, **params)
    assert answer.status_code == 200, answer.text
    return ids(answer.json()["Emails"])


async def project_late_email(served: Gateway, standby: PostgresServer) -> None:
    """Project 150 emails, wait until the standby has them, make it stand still, and project one more."""
    grown = Grown(served)
    for number in range(150):
        grown.log.fold(request(number, T0 + number), acked(number, T0 + number))
    await grown.project()

    async def is_replayed() -> bool:
        return len(await listed(served)) == 100

    await until(is_replayed)
    execute(standby, "select pg_wal_replay_pause()")
    await until(lambda: execute(standby, "select pg_get_wal_replay_pause_state()") == [("paused",)])
    grown.log.fold(request(LATE, T0 - 1), acked(LATE, T0 - 1))
    await grown.project()


async def test_listing_comes_from_standby_and_falls_back(
    settings: Settings,
    pair: tuple[PostgresServer, PostgresServer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setattr(history_reader, "STANDBY_RETRY_INTERVAL_S", 0.0)
    primary, standby = pair
    plain = settings.model_copy(update={"database_url": SecretStr(primary.url)})
    reading = plain.model_copy(update={"database_read_url": SecretStr(standby.url), "database_read_max_lag": 3600.0})
    async with gateway(plain, data_dir=tmp_path_factory.mktemp("plain")) as beside, gateway(reading) as served:
        await project_late_email(served, standby)
        # It shows the past, which proves that the standby answers.
        assert await listed(served, Email=f"player{LATE}@example.com") == []

        # It is behind the moment that this listing shows, so its second page comes from the primary.
        first = (await get(beside, key=served.key)).json()
        second = await listed(served, Next=first["Next"])
        assert second[-1] == identified(LATE)
        assert len({*ids(first["Emails"]), *second}) == 151

        # Away: the primary answers.
        await standby.stop()
        assert await listed(served, Email=f"player{LATE}@example.com") == [identified(LATE)]


async def test_standby_that_lags_for_too_long_is_passed_over(
    settings: Settings, pair: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_reader, "PRIMARY_TIME_TTL_S", 0.0)
    primary, standby = pair
    urls = {"database_url": SecretStr(primary.url), "database_read_url": SecretStr(standby.url)}
    async with gateway(settings.model_copy(update={**urls, "database_read_max_lag": 0.5})) as served:
        await project_late_email(served, standby)
        late = {"Email": f"player{LATE}@example.com"}
        await until(lambda: is_listed(served, late))
        assert execute(standby, "select pg_get_wal_replay_pause_state()") == [("paused",)]
        with captured_log_lines() as lines:
            execute(standby, "select pg_wal_replay_resume()")
            await until(lambda: is_caught_up(served, late, lines))
        assert await listed(served, **late) == [identified(LATE)]


async def is_listed(served: Gateway, params: dict[str, str]) -> bool:
    return await listed(served, **params) == [identified(LATE)]


async def is_caught_up(served: Gateway, params: dict[str, str], lines: LogLines) -> bool:
    await listed(served, **params)
    return "standby caught up, reading from it again" in [line["event"] for line in lines()]
