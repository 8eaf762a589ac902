"""`mailfold backup` and `restore` on a real Postgres: what Postgres owns comes back, or nothing changes."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from pipeline import admin
from pipeline.errors import DatabaseUnavailable, SchemaMismatch
from pipeline.operations.backup import restore, save
from pipeline.operations.backup.contents import OWNED_TABLES, REBUILT_TABLES, BackupHeader
from pipeline.operations.backup.restore import BackupMismatch, restore_backup, verify_backup
from pipeline.operations.backup.save import BackupNotWritten, save_backup
from pipeline.operations.backup.sealed_file import BackupUnreadable
from pipeline.runtime.postgres.database import open_database
from pipeline.settings import Settings
from projections import feature_level
from tests.conftest import RING, own_database, with_database
from tests.support.command import mailfold_on

PASSPHRASE = "a passphrase of tests"
FILL = """
insert into intake.identities values (%(id)s, 'print', 7);
insert into intake.webhooks_heard (provider, outcome, at, why)
values ('mine', 'taken', now(), E'a\\ttab\\\\ and\\nlines');
insert into jobs.lanes (queue, lane, paused_at, paused_reason) values ('emit', 'acme/7', now(), 'an operator');
insert into jobs.lanes (queue, lane, trips) values ('emit', 'acme/8', 3);
insert into jobs.jobs (queue, stream, seq, name, lane, state, payload, replayed_after, attempts, lease_token) values
    ('dispatch', gen_random_uuid(), 0, 'send', 'acme/7', 'attempting', '1', 0, 1, gen_random_uuid()),
    ('dispatch', gen_random_uuid(), 0, 'send', 'acme/7', 'unknown', '2', 0, 1, null),
    ('dispatch', gen_random_uuid(), 0, 'send', 'acme/7', 'pending', '3', 2, 2, null),
    ('dispatch', gen_random_uuid(), 0, 'send', 'acme/7', 'pending', '4', 0, 1, null),
    ('emit', gen_random_uuid(), 1, 'open', 'acme/7', 'done', '', 0, 1, null);
insert into jobs.next_offsets values ('dispatch', 'provider-acks', 0, 4711);
insert into suppressions.decisions values
    ('acme', '7', '\\x01', 'manual', '', 'cli me', 5, 40), ('acme', '*', '\\x01', null, '', 'cli me', 6, 41);
insert into suppressions.next_offsets values ('suppressions', 0, 42);
update suppressions.key_change set changed_at = 1234;
"""


@pytest.fixture
async def filled(settings: Settings) -> Settings:
    """Settings whose database has rows in most tables."""
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme", batch_max=5))
        await admin.add_key(pool, "acme")
        await admin.add_provider(pool, admin.Provider("mine", "smtp.example", username="u", password="p"), RING)
        await admin.add_brand(pool, admin.Brand("acme", "*", "mine"))
        await admin.add_destination(pool, admin.Destination("acme", "*", "https://x.example", "key"), RING)
    async with await connect(settings) as connection:
        await psycopg.AsyncClientCursor(connection).execute(FILL, {"id": uuid.uuid4()})
    return settings


@pytest.fixture
async def new_database(postgres_url: str, migrated_database: str, settings: Settings) -> AsyncIterator[Settings]:
    """The same settings with another migrated database, which nobody has used."""
    with own_database(postgres_url, migrated_database) as name:
        yield settings.model_copy(update={"database_url": SecretStr(with_database(postgres_url, name))})


async def connect(settings: Settings) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(settings.database_url.get_secret_value(), autocommit=True)


async def contents(settings: Settings, *tables: str) -> dict[str, list[Any]]:
    found = {}
    async with await connect(settings) as connection:
        for name in tables:
            query = sql.SQL("select to_jsonb(t) from {} t order by to_jsonb(t)::text").format(
                sql.Identifier(*name.split("."))
            )
            found[name] = [row for (row,) in await (await connection.execute(query)).fetchall()]
    return found


async def test_every_table_is_saved_or_made_from_the_log(settings: Settings) -> None:
    async with await connect(settings) as connection:
        tables = {name for (name,) in await (await connection.execute(save.SQL["tables"])).fetchall()}
    saved = [table.name for table in OWNED_TABLES]
    assert not set(saved) & set(REBUILT_TABLES)
    assert {*saved, *REBUILT_TABLES} == tables


async def test_restored_database_has_what_postgres_owned(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "one.backup"
    saved = await save_backup(filled, path, PASSPHRASE)
    assert saved.header.log is not None
    assert verify_backup(path, PASSPHRASE).rows == saved.rows
    restored = await restore_backup(new_database, path, PASSPHRASE)
    assert (restored.rows, restored.log_note) == (saved.rows, "")
    whole = [
        table.name for table in OWNED_TABLES if table.name not in ("jobs.jobs", "jobs.lanes", "suppressions.decisions")
    ]
    assert await contents(new_database, *whole) == await contents(filled, *whole)
    rebuilt = [name for name in REBUILT_TABLES if name != "public.schema_migrations"]
    found = await contents(new_database, "jobs.jobs", "jobs.lanes", *rebuilt)
    assert sorted((row["state"], row["payload"], row["lease_token"]) for row in found.pop("jobs.jobs")) == [
        ("attempting", r"\x31", None),
        ("pending", r"\x33", None),
        ("unknown", r"\x32", None),
    ]
    assert [(row["lane"], row["paused_reason"]) for row in found.pop("jobs.lanes")] == [("acme/7", "an operator")]
    assert {name: rows for name, rows in found.items() if rows} == {}, "nothing that the log tells is restored"
    decisions = (await contents(new_database, "suppressions.decisions"))["suppressions.decisions"]
    by_place = sorted(decisions, key=lambda row: int(row["nth"]))
    assert [(row["brand"], row["nth"] < 0) for row in by_place] == [("7", True), ("*", True)]
    async with open_database(new_database, size=1) as pool:
        assert (await admin.get_provider(pool, "mine", RING)).password == "p"


async def test_database_in_use_is_refused_and_stays_as_it_is(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    async with await connect(new_database) as connection:
        await connection.execute("insert into jobs.next_offsets values ('dispatch', 'provider-acks', 0, 1)")
    with pytest.raises(BackupMismatch, match=r"in use: jobs\.next_offsets have rows; create a new database"):
        await restore_backup(new_database, tmp_path / "one", PASSPHRASE)
    assert await contents(new_database, "admin.tenants") == {"admin.tenants": []}


async def test_row_that_is_written_during_the_look_at_the_tables_is_seen(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    async with await connect(new_database) as other, await connect(new_database) as observer:
        await other.set_autocommit(False)
        await other.execute("insert into admin.tenants (tenant) values ('other')")
        restoring = asyncio.create_task(restore_backup(new_database, tmp_path / "one", PASSPHRASE))
        waiting = "select 1 from pg_locks where not granted and mode = 'ExclusiveLock'"
        while not restoring.done() and not (await observer.execute(waiting)).rowcount:
            await asyncio.sleep(0)
        await other.commit()
        with pytest.raises(BackupMismatch, match=r"in use: admin\.tenants have rows"):
            await restoring


async def test_row_that_is_there_already_is_one_sentence(
    filled: Settings, new_database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pass_by(_connection: Any) -> None:
        """Look at nothing."""

    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    monkeypatch.setattr(restore, "_require_unused", pass_by)
    async with await connect(new_database) as connection:
        await connection.execute("insert into admin.tenants (tenant) values ('acme')")
    with pytest.raises(BackupMismatch, match="does not take a row, nothing was restored: duplicate key"):
        await restore_backup(new_database, tmp_path / "one", PASSPHRASE)


async def test_failure_at_the_commit_does_not_say_that_nothing_was_restored(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    async with await connect(new_database) as connection:
        await connection.execute(
            "create function fail_at_commit() returns trigger language plpgsql as"
            " $$ begin raise exception 'going down' using errcode = 'admin_shutdown'; end $$"
        )
        await connection.execute(
            "create constraint trigger fail after insert on admin.tenants deferrable initially deferred"
            " for each row execute function fail_at_commit()"
        )
    with pytest.raises(DatabaseUnavailable, match=r"either everything or nothing was restored.*going down"):
        await restore_backup(new_database, tmp_path / "one", PASSPHRASE)


async def test_database_without_tables_is_refused(filled: Settings, empty_database_url: str, tmp_path: Path) -> None:
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    empty = filled.model_copy(update={"database_url": SecretStr(empty_database_url)})
    with pytest.raises(SchemaMismatch, match="run `mailfold migrate`"):
        await restore_backup(empty, tmp_path / "one", PASSPHRASE)


async def test_another_secret_is_refused_unless_it_is_lost(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    other = new_database.model_copy(update={"secret": SecretStr("another-secret-for-tests-of-32-characters")})
    with pytest.raises(BackupMismatch, match="made under other secrets"):
        await restore_backup(other, tmp_path / "one", PASSPHRASE)
    assert (await restore_backup(other, tmp_path / "one", PASSPHRASE, other_secret=True)).rows["admin.tenants"] == 1


async def test_file_that_breaks_off_changes_nothing(
    filled: Settings, new_database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one"
    await save_backup(filled, path, PASSPHRASE)
    verified = verify_backup(path, PASSPHRASE)
    # As if the file were changed after it was verified.
    monkeypatch.setattr("pipeline.operations.backup.restore.verify_backup", lambda *_: verified)
    data = path.read_bytes()
    path.write_bytes(data[:-400] + bytes(400))
    with pytest.raises(BackupUnreadable):
        await restore_backup(new_database, path, PASSPHRASE)
    assert await contents(new_database, "admin.tenants", "jobs.lanes") == {"admin.tenants": [], "jobs.lanes": []}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"migrations": ("001_admin.sql", "999_later.sql")}, r"whose schema has 999_later\.sql: restore it with that"),
        ({"feature_level": feature_level.NEWEST_LEVEL + 1}, "made at feature level"),
    ],
)
async def test_backup_of_a_newer_version_is_refused(  # noqa: PLR0917
    filled: Settings,
    new_database: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    sentence: str,
) -> None:
    def newer_header(**values: Any) -> BackupHeader:
        return BackupHeader(**(values | changed))

    monkeypatch.setattr(save, "BackupHeader", newer_header)
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    with pytest.raises(SchemaMismatch, match=sentence):
        await restore_backup(new_database, tmp_path / "one", PASSPHRASE)


async def test_column_that_this_version_has_no_more_is_refused_and_a_new_one_gets_its_default(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    async with await connect(new_database) as connection:
        await connection.execute("alter table admin.tenants add column plan text not null default 'free'")
        await connection.execute("alter table admin.tenants rename column batch_max to batch_limit")
    await save_backup(filled, tmp_path / "one", PASSPHRASE)
    with pytest.raises(SchemaMismatch, match=r"admin\.tenants has no column batch_max any more"):
        await restore_backup(new_database, tmp_path / "one", PASSPHRASE)
    async with await connect(new_database) as connection:
        await connection.execute("alter table admin.tenants rename column batch_limit to batch_max")
    await restore_backup(new_database, tmp_path / "one", PASSPHRASE)
    [tenant] = (await contents(new_database, "admin.tenants"))["admin.tenants"]
    assert (tenant["plan"], tenant["batch_max"]) == ("free", 5)


async def test_snapshot_is_one_moment_although_others_write(
    filled: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A brand that is added between the reading of two tables is in neither, so that no foreign key breaks."""
    real = save._save_table

    async def slow(connection: Any, table: Any, writer: Any) -> int:
        rows = await real(connection, table, writer)
        if table.name == "admin.providers":
            async with open_database(filled, size=1) as pool:
                await admin.add_provider(pool, admin.Provider("later", "smtp.example"), RING)
                await admin.add_brand(pool, admin.Brand("acme", "9", "later"))
        return rows

    monkeypatch.setattr(save, "_save_table", slow)
    saved = await save_backup(filled, tmp_path / "one", PASSPHRASE)
    assert (saved.rows["admin.providers"], saved.rows["admin.brands"]) == (1, 1)


async def test_many_rows_are_saved_in_several_parts(
    filled: Settings, new_database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "PART_BYTES", 1_000)
    async with await connect(filled) as connection:
        await connection.execute(
            "insert into intake.identities select gen_random_uuid(), 'print', n from generate_series(1, 500) as n"
        )
    saved = await save_backup(filled, tmp_path / "one", PASSPHRASE)
    assert saved.rows["intake.identities"] == 501
    await restore_backup(new_database, tmp_path / "one", PASSPHRASE)
    assert await contents(new_database, "intake.identities") == await contents(filled, "intake.identities")


async def test_folder_that_is_not_there_is_one_sentence(filled: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupNotWritten, match="could not be written: No such file or directory; nothing was left"):
        await save_backup(filled, tmp_path / "no" / "one", PASSPHRASE)


async def test_backup_is_made_while_kafka_is_away(filled: Settings, tmp_path: Path) -> None:
    saved = await save_backup(filled.model_copy(update={"kafka_bootstrap": ""}), tmp_path / "one", PASSPHRASE)
    assert saved.header.log is None


async def test_commands_save_verify_and_restore_with_the_passphrase_of_a_file(
    filled: Settings, new_database: Settings, tmp_path: Path
) -> None:
    passphrase_file = tmp_path / "passphrase"
    passphrase_file.write_text(PASSPHRASE + "\n")
    env = {"MAILFOLD_BACKUP_PASSPHRASE_FILE": str(passphrase_file)}
    path = str(tmp_path / "one.backup")
    refused = await mailfold_on(filled, "backup", path)
    assert (refused.code, refused.err) == (
        1,
        "mailfold: MAILFOLD_BACKUP_PASSPHRASE: missing; set it, or MAILFOLD_BACKUP_PASSPHRASE_FILE\n",
    )
    said = await mailfold_on(filled, "backup", path, **env)
    assert said.code == 0, said.err
    assert "admin.tenants: 1" in said.out
    assert "SHA-256" in said.out
    said = await mailfold_on(filled, "backup", "--verify", path, **env)
    assert "complete and unchanged" in said.out
    said = await mailfold_on(new_database, "restore", path, **env)
    assert said.code == 0, said.err
    assert "restored. Next: `mailfold doctor`" in said.out
    said = await mailfold_on(new_database, "restore", path, **env)
    assert said.code == 1
    assert "the database is in use" in said.err
