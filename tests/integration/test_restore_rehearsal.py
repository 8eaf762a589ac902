"""A rehearsal of each restoration: what was accepted is all there, nothing is sent or told twice, rows are equal.

With a database that lags, with one that is lost, and on another cluster, whose offsets differ.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from pipeline import admin
from pipeline.operations.backup.restore import restore_backup
from pipeline.operations.backup.save import save_backup
from pipeline.operations.rebuild import rebuild
from pipeline.operations.recover.losses import find_losses
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.settings import Settings
from tests.conftest import RING, own_database, with_database
from tests.support.dispatching import FAST
from tests.support.installation import LANE, Outside, installed, outside, pause, set_up, settled, take
from tests.support.mirror import drop, mirror
from tests.support.seeing import rows, until
from tests.support.tables import tables
from topics.record import EmailId

PASSPHRASE = "a passphrase of tests"
BEFORE, SINCE, WAITING = 6, 5, 4
COMPARED = ("history", "versions", "timeline", "evidence", "mails", "identities")

pytestmark = pytest.mark.ci


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


@pytest.fixture
async def new_database(postgres_url: str, migrated_database: str, quick: Settings) -> AsyncIterator[Settings]:
    """The same settings with another migrated database, which nobody has used."""
    with own_database(postgres_url, migrated_database) as name:
        yield quick.model_copy(update={"database_url": SecretStr(with_database(postgres_url, name))})


class Told:
    """What an installation knew at its end."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}
        self.waiting: list[EmailId] = []


async def live(settings: Settings, folder: Path, world: Outside, backup: Path | None) -> Told:
    """Send emails, save a backup, send more, and accept some that are not sent; return what the database knows then."""
    await set_up(settings, world)
    async with installed(settings, folder) as rt:
        await take(rt, "before", BEFORE)
        await settled(rt, world, BEFORE)
        if backup is not None:
            await save_backup(settings, backup, PASSPHRASE)
    if backup is None:
        await clone(settings, settings.database_url.get_secret_value() + "_saved")
    async with installed(settings, folder) as rt:
        await take(rt, "since", SINCE)
        await settled(rt, world, BEFORE + SINCE)
        await pause(rt)
        told = Told()
        told.waiting = [request.email_id for request in await take(rt, "waiting", WAITING)]
        await until(lambda: has_all(rt, BEFORE + SINCE + WAITING))
    told.rows = await known(settings, told.waiting)
    return told


async def has_all(rt: Runtime, emails: int) -> bool:
    query = (
        "select (select count(*) from projections.history), (select count(*) from jobs.jobs where queue = 'dispatch')"
    )
    return await rows(rt, query) == [(emails, emails)]


async def clone(settings: Settings, url: str) -> None:
    """Copy the database, to which nobody is connected."""
    before, name = settings.database_url.get_secret_value().rpartition("/")[2], url.rpartition("/")[2]
    async with await psycopg.AsyncConnection.connect(with_database(url, "postgres"), autocommit=True) as connection:
        await connection.execute(f"create database {name} template {before}")  # type: ignore[arg-type,unused-ignore]


async def known(settings: Settings, without: list[EmailId], *, places: bool = True) -> dict[str, list[Any]]:
    """Return the rows of the tables that queries read, without those of some emails."""
    async with await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value()) as connection:
        found = await tables(connection, *COMPARED)
    left_out = {str(each) for each in without}
    return {
        name: [_plain(row, places) for row in found[name] if not {str(value) for value in row} & left_out]
        for name in COMPARED
    }


def missing(before: dict[str, list[Any]], now: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the rows that are not there any more, by table."""
    lost = {name: [row for row in before[name] if row not in now[name]] for name in COMPARED}
    return {name: found for name, found in lost.items() if found}


def _plain(row: tuple[Any, ...], places: bool) -> tuple[Any, ...]:
    """Return a row without the time of a reservation, which the gateway or the projector writes, and without places."""
    return tuple(value for value in row if places or not isinstance(value, list))


async def assert_equal_to_the_log(settings: Settings) -> None:
    async with open_runtime(settings, signals=False) as rt:
        assert (await rebuild(rt, lambda _done, _total: None, check=True)).differences == []


async def test_lagging_database_sends_and_tells_nothing_again(quick: Settings, tmp_path: Path) -> None:
    async with outside() as world:
        told = await live(quick, tmp_path / "one", world, None)
        lagging = quick.model_copy(update={"database_url": SecretStr(quick.database_url.get_secret_value() + "_saved")})
        try:
            async with installed(lagging, tmp_path / "one") as rt:
                await settled(rt, world, BEFORE + SINCE + WAITING)
                await take(rt, "new", 2)
                await settled(rt, world, BEFORE + SINCE + WAITING + 2)
            world.assert_nothing_twice()
            assert len(world.mails()) == BEFORE + SINCE + WAITING + 2
            now = await known(lagging, told.waiting)
            assert missing(told.rows, now) == {}
            await assert_equal_to_the_log(lagging)
        finally:
            url = lagging.database_url.get_secret_value()
            async with await psycopg.AsyncConnection.connect(
                with_database(url, "postgres"), autocommit=True
            ) as connection:
                await connection.execute(f"drop database {url.rpartition('/')[2]} with (force)")  # type: ignore[arg-type,unused-ignore]


async def test_lost_database_is_restored_and_made_from_the_log(
    quick: Settings, new_database: Settings, tmp_path: Path
) -> None:
    backup = tmp_path / "one.backup"
    async with outside() as world:
        told = await live(quick, tmp_path / "one", world, backup)
        restored = await restore_backup(new_database, backup, PASSPHRASE)
        assert restored.log_note == ""
        async with installed(new_database, tmp_path / "one") as rt:
            await settled(rt, world, BEFORE + SINCE + WAITING)
            await take(rt, "new", 2)
            await settled(rt, world, BEFORE + SINCE + WAITING + 2)
            assert (await admin.get_provider(rt.pool, "local-7", RING)).means_delivered
            assert await rows(rt, "select count(*) from jobs.lanes where lane = %s", LANE) == [(0,)], "paused since"
        world.assert_nothing_twice()
        assert len(world.mails()) == BEFORE + SINCE + WAITING + 2
        now = await known(new_database, told.waiting)
        assert missing(told.rows, now) == {}
        await assert_equal_to_the_log(new_database)


async def test_database_is_restored_on_another_cluster(quick: Settings, new_database: Settings, tmp_path: Path) -> None:
    backup = tmp_path / "one.backup"
    other = new_database.model_copy(update={"topic_prefix": f"t{secrets.token_hex(6)}-"})
    async with outside() as world:
        told = await live(quick, tmp_path / "one", world, backup)
        await mirror(quick, other, shift=7)
        try:
            restored = await restore_backup(other, backup, PASSPHRASE)
            assert "made with another log" in restored.log_note
            async with installed(other, tmp_path / "two") as rt:
                await settled(rt, world, BEFORE + SINCE + WAITING)
                await take(rt, "new", 2)
                await settled(rt, world, BEFORE + SINCE + WAITING + 2)
                assert await find_losses(other, rt.pool) == []
            world.assert_nothing_twice()
            assert len(world.mails()) == BEFORE + SINCE + WAITING + 2
            before = {name: [_plain(row, False) for row in found] for name, found in told.rows.items()}
            now = await known(other, told.waiting, places=False)
            assert missing(before, now) == {}
            await assert_equal_to_the_log(other)
        finally:
            await asyncio.shield(drop(other))
