"""A database that somebody has used is brought to the newest schema, and nothing they decided is lost."""

import psycopg
import pytest
from pydantic import SecretStr

from pipeline import admin
from pipeline.errors import SchemaMismatch
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.postgres.schema import finish_upgrade, migrate_database
from pipeline.settings import Settings
from projections import feature_level
from projections.feature_level import FIRST_LEVEL, NEWEST_LEVEL, read_level
from projections.migrate import MIGRATIONS
from tests.conftest import RING


async def test_a_provider_keeps_its_webhook_key(empty_database_url: str) -> None:
    settings = Settings(database_url=SecretStr(empty_database_url))
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await connection.execute("create table public.schema_migrations (name text primary key)")
        for path in sorted(MIGRATIONS.glob("00[1-7]*.sql")):
            await connection.execute(path.read_text())
            await connection.execute("insert into public.schema_migrations values (%s)", (path.name,))
        await connection.execute(
            "insert into admin.providers (provider, kind, host, port, webhook_key) values"
            " ('keyed', 'sendgrid', 'smtp.example', 587, 'MFkw'), ('plain', 'smtp', 'smtp.example', 25, '')"
        )
    await migrate_database(settings)
    async with open_database(settings, size=1) as pool:
        keyed, plain = await admin.list_providers(pool, RING)
        assert (keyed.host, keyed.port, keyed.kind, keyed.via, keyed.webhook_keys) == (
            *("smtp.example", 587, "sendgrid", "smtp"),
            ("MFkw",),
        )
        assert plain.webhook_keys == ()
        await admin.rotate_webhook_key(pool, "keyed", "newer", RING)
        assert (await admin.get_provider(pool, "keyed", RING)).webhook_keys == ("MFkw", "newer")


async def test_webhook_keys_lie_sealed_and_the_newest_two_count(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        row = admin.Provider("mine", "smtp.example", kind="mailgun", webhook_keys=("first",))
        await admin.add_provider(pool, row, RING)

        async def keys() -> tuple[str, ...]:
            return (await admin.get_provider(pool, "mine", RING)).webhook_keys

        for key, wanted in (("second", ("first", "second")), ("third", ("second", "third"))):
            await admin.rotate_webhook_key(pool, "mine", key, RING)
            assert await keys() == wanted
        # Changed in another respect, it keeps its keys; nobody has them at hand then.
        await admin.add_provider(pool, admin.Provider("mine", "other.example", kind="mailgun"), RING)
        assert await keys() == ("second", "third")
        await admin.end_old_webhook_keys(pool, "mine")
        assert await keys() == ("third",)
        async with pool.connection() as connection:
            stored = await (await connection.execute("select provider::text from admin.providers provider")).fetchall()
        assert "third" not in str(stored)


async def test_database_that_is_not_migrated_is_refused(empty_database_url: str) -> None:
    settings = Settings(database_url=SecretStr(empty_database_url))
    with pytest.raises(SchemaMismatch, match=r"the database lacks 001_admin.sql and \d+ more: run `mailfold migrate`"):
        async with open_database(settings):
            pass
    await migrate_database(settings)
    async with open_database(settings):
        pass


async def test_only_a_new_database_has_the_newest_level(settings: Settings, empty_database_url: str) -> None:
    async with open_database(settings, size=1) as pool, pool.connection() as connection:
        assert await read_level(connection) == NEWEST_LEVEL
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await connection.execute("create table public.schema_migrations (name text primary key)")
        first = min(MIGRATIONS.glob("*.sql"))
        await connection.execute(first.read_text())
        await connection.execute("insert into public.schema_migrations values (%s)", (first.name,))
        await migrate_database(Settings(database_url=SecretStr(empty_database_url)))
        assert await read_level(connection) == FIRST_LEVEL


async def test_process_below_the_feature_level_is_refused(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool, pool.connection() as connection:
        await connection.execute("update admin.feature_level set level = %s", (NEWEST_LEVEL + 1,))
    with pytest.raises(SchemaMismatch, match=rf"feature level {NEWEST_LEVEL + 1} is finished, .*upgrade this process"):
        async with open_database(settings):
            pass


async def test_upgrade_is_finished_when_no_other_version_is_connected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = settings.database_url.get_secret_value()
    newer = NEWEST_LEVEL + 1
    monkeypatch.setattr(feature_level, "NEWEST_LEVEL", newer)
    async with open_database(settings, size=1):
        async with await psycopg.AsyncConnection.connect(url, application_name="mailfold/0.0.9"):
            with pytest.raises(SchemaMismatch, match=r"1 connections of other versions are open \(0.0.9\)"):
                await finish_upgrade(settings, force=False)
        async with await psycopg.AsyncConnection.connect(url, application_name="psql"):
            finished = await finish_upgrade(settings, force=False)
    assert (finished.level_before, finished.level, finished.migrations) == (NEWEST_LEVEL, newer, ())
    assert (await finish_upgrade(settings, force=False)).level_before == newer


async def test_finishing_needs_the_schema(empty_database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="run `mailfold migrate` first"):
        await finish_upgrade(Settings(database_url=SecretStr(empty_database_url)), force=True)
