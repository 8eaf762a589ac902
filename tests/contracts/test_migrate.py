"""The contract of the runner of migrations on a real Postgres: order, locks, files outside a transaction, contracts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from projections import feature_level
from projections import migrate as module
from projections.migrate import MIGRATIONS, SchemaBusy, SchemaTooNew, UpgradeUnfinished, compare_schema, migrate

Connection = psycopg.AsyncConnection[Any]
FIRST = {"001_first.sql": "create table public.made (a integer);"}
EXPAND = {"002_expand.sql": "alter table public.made add column b integer;"}
CONTRACT = {"003_contract.sql": "-- migrate: contract\nalter table public.made drop column a;"}
CONCURRENT = {
    "002_index.sql": "-- migrate: outside a transaction\nset search_path to public;\n"
    "drop index concurrently if exists made_a;\ncreate index concurrently made_a on made (a);\n"
}


class Files:
    """The folder of migrations of a version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, *files: dict[str, str]) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        for name, text in (item for group in files for item in group.items()):
            (self._folder / name).write_text(text)


async def _raise_nothing(_connection: Connection) -> int:
    return 1


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(module, "MIGRATIONS", tmp_path)
    monkeypatch.setattr(feature_level, "raise_level", _raise_nothing)  # these versions have no such table
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(module, "_RETRY_PAUSE_S", 0.05)
    return Files(tmp_path)


@pytest.fixture
async def empty(empty_database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@contextlib.asynccontextmanager
async def reading(url: str) -> AsyncIterator[None]:
    """Hold a transaction open that has read the table."""
    async with await psycopg.AsyncConnection.connect(url) as reader:
        await reader.execute("select * from public.made")
        yield


async def columns(connection: Connection) -> set[str]:
    rows = await connection.execute("select column_name from information_schema.columns where table_name = 'made'")
    return {name for (name,) in await rows.fetchall()}


async def test_empty_database_gets_every_file_once(empty: Connection) -> None:
    names = [path.name for path in sorted(MIGRATIONS.glob("*.sql"))]
    assert (await compare_schema(empty)).needed == tuple(names)
    assert await migrate(empty) == names
    assert await migrate(empty) == []
    assert (await compare_schema(empty)).missing == ()


async def test_database_of_first_release_keeps_its_applied_files(empty: Connection, files: Files) -> None:
    files.hold(FIRST)
    await empty.execute("create table public.schema_migrations (name text primary key)")
    await empty.execute("insert into public.schema_migrations values ('001_first.sql')")
    difference = await compare_schema(empty)
    assert (difference.missing, difference.applied, difference.is_too_new) == ((), ("001_first.sql",), False)
    files.hold(FIRST, {"002_other.sql": "create table public.made (b integer);"})
    assert await migrate(empty) == ["002_other.sql"]


@pytest.fixture
async def expanding(empty: Connection, files: Files) -> Connection:
    """A database whose table a migration is to alter."""
    files.hold(FIRST)
    await migrate(empty)
    files.hold(FIRST, EXPAND)
    return empty


async def test_table_in_use_is_waited_for_without_blocking_its_readers(
    expanding: Connection, empty_database_url: str
) -> None:
    async with reading(empty_database_url):
        migrating = asyncio.create_task(migrate(expanding))
        for _ in range(5):
            async with asyncio.timeout(10), reading(empty_database_url):
                pass
        assert not migrating.done()
    assert await migrating == ["002_expand.sql"]
    assert await columns(expanding) == {"a", "b"}


async def test_table_that_stays_in_use_is_given_up_and_nothing_is_applied(
    expanding: Connection, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOCK_ATTEMPTS", 2)
    async with reading(empty_database_url):
        with pytest.raises(SchemaBusy, match=r"002_expand.sql did not get its tables in 2 attempts"):
            await migrate(expanding)
    assert (await compare_schema(expanding)).needed == ("002_expand.sql",)
    assert await migrate(expanding) == ["002_expand.sql"]


async def test_index_is_created_concurrently_by_one_of_two_migrators(
    empty: Connection, empty_database_url: str, files: Files
) -> None:
    files.hold(FIRST)
    await migrate(empty)
    files.hold(FIRST, CONCURRENT)
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as second:
        async with asyncio.timeout(30):
            applied = await asyncio.gather(migrate(empty), migrate(second))
    assert sorted(applied) == [[], ["002_index.sql"]]
    index = "select indisvalid from pg_index where indexrelid = 'public.made_a'::regclass"
    assert await (await empty.execute(index)).fetchall() == [(True,)]


async def test_contract_is_applied_at_the_end_and_refuses_older_versions(empty: Connection, files: Files) -> None:
    files.hold(FIRST)
    await migrate(empty)
    files.hold(FIRST, EXPAND, CONTRACT)
    assert await migrate(empty) == ["002_expand.sql"]
    assert (await compare_schema(empty)).needed == ()
    files.hold(FIRST)
    difference = await compare_schema(empty)
    assert (difference.unknown, difference.is_too_new) == (("002_expand.sql",), False)
    assert await migrate(empty) == [], "the version before works with what is expanded"

    files.hold(FIRST, EXPAND, CONTRACT)
    assert await migrate(empty, finish=True) == ["003_contract.sql"]
    assert await columns(empty) == {"b"}
    files.hold(FIRST)
    with pytest.raises(SchemaTooNew, match=r"003_contract.sql, of a newer version; upgrade this process"):
        await migrate(empty)


async def test_empty_database_gets_contracts_at_once(empty: Connection, files: Files) -> None:
    files.hold(FIRST, EXPAND, CONTRACT)
    assert len(await migrate(empty)) == 3


async def test_next_upgrade_is_refused_before_the_last_is_finished(empty: Connection, files: Files) -> None:
    files.hold(FIRST)
    await migrate(empty)
    files.hold(FIRST, EXPAND, CONTRACT, {"004_next.sql": "alter table public.made add column c integer;"})
    with pytest.raises(UpgradeUnfinished, match=r"003_contract.sql must be applied before 004_next.sql"):
        await migrate(empty)
