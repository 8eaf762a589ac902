"""A database that somebody has used is brought to the newest schema, and nothing they decided is lost."""

import psycopg

from pipeline import admin
from pipeline.runtime.database import open_database
from pipeline.settings import Settings
from projections.migrate import MIGRATIONS
from tests.conftest import SECRET


async def test_a_provider_keeps_its_webhook_key(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("create table public.schema_migrations (name text primary key)")
        for path in sorted(MIGRATIONS.glob("00[1-7]*.sql")):
            await connection.execute(path.read_text())
            await connection.execute("insert into public.schema_migrations values (%s)", (path.name,))
        await connection.execute(
            "insert into admin.providers (provider, kind, host, port, webhook_key) values"
            " ('keyed', 'sendgrid', 'smtp.example', 587, 'MFkw'), ('plain', 'smtp', 'smtp.example', 25, '')"
        )
    async with open_database(settings, size=1) as pool:
        keyed, plain = await admin.list_providers(pool, SECRET)
        assert (keyed.host, keyed.port, keyed.kind, keyed.via, keyed.webhook_keys) == (
            *("smtp.example", 587, "sendgrid", "smtp"),
            ("MFkw",),
        )
        assert plain.webhook_keys == ()
        await admin.rotate_webhook_key(pool, "keyed", "newer", SECRET)
        assert (await admin.get_provider(pool, "keyed", SECRET)).webhook_keys == ("MFkw", "newer")


async def test_webhook_keys_lie_sealed_and_the_newest_two_count(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        row = admin.Provider("mine", "smtp.example", kind="mailgun", webhook_keys=("first",))
        await admin.add_provider(pool, row, SECRET)

        async def keys() -> tuple[str, ...]:
            return (await admin.get_provider(pool, "mine", SECRET)).webhook_keys

        for key, wanted in (("second", ("first", "second")), ("third", ("second", "third"))):
            await admin.rotate_webhook_key(pool, "mine", key, SECRET)
            assert await keys() == wanted
        # Changed in another respect, it keeps its keys; nobody has them at hand then.
        await admin.add_provider(pool, admin.Provider("mine", "other.example", kind="mailgun"), SECRET)
        assert await keys() == ("second", "third")
        await admin.end_old_webhook_keys(pool, "mine")
        assert await keys() == ("third",)
        async with pool.connection() as connection:
            stored = await (await connection.execute("select provider::text from admin.providers provider")).fetchall()
        assert "third" not in str(stored)
