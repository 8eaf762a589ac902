"""Migrates a database to the newest schema; `pipeline.runtime.database` calls it when a role starts."""

from pathlib import Path
from typing import Any

import psycopg

from projections import locks

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK_KEY = 0x6D61696C  # "mail"; two roles that start together must not both migrate


async def migrate(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    """Apply each file of `migrations/` that is missing, in order; return the names of the applied files.

    Each file is one transaction; a lock keeps two processes from migrating at the same time.
    """
    applied: list[str] = []
    await locks.lock(connection, _MIGRATION_LOCK_KEY)
    try:
        await connection.execute("create table if not exists public.schema_migrations (name text primary key)")
        await connection.commit()
        for path in sorted(MIGRATIONS.glob("*.sql")):
            async with connection.transaction():
                inserted = await connection.execute(
                    "insert into public.schema_migrations values (%s) on conflict do nothing returning 1", (path.name,)
                )
                if await inserted.fetchone() is not None:
                    await connection.execute(path.read_text(encoding="utf-8"))
                    applied.append(path.name)
    finally:
        await locks.unlock(connection, _MIGRATION_LOCK_KEY)
        await connection.commit()
    return applied
