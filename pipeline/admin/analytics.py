"""Roles of Postgres that may read the schema `analytics`, and whose tenants they see."""

from typing import Final

import psycopg
from psycopg import sql

from pipeline.admin.sql import SQL, fetch_rows
from pipeline.errors import NotFound, Refused
from pipeline.runtime.postgres.database import Pool

ALL_TENANTS: Final = "*"


async def grant_analytics(pool: Pool, role: str, tenant: str) -> None:
    """Let an existing role read the views of a tenant, or of all for ``*``. Raise NotFound, Refused."""
    name = sql.Identifier(role)
    try:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(sql.SQL("grant usage on schema analytics to {}").format(name))
            await connection.execute(sql.SQL("grant select on all tables in schema analytics to {}").format(name))
            await connection.execute(SQL["add_analytics_reader"], (role, tenant))
    except psycopg.errors.UndefinedObject:
        hint = f"create it first, as a superuser: create role {role} login password '…'"
        raise NotFound(f"Postgres has no role {role}; {hint}") from None
    except psycopg.errors.InsufficientPrivilege:
        raise Refused("only the owner of Mailfold's schemas can grant this") from None


async def revoke_analytics(pool: Pool, role: str) -> None:
    """Take all tenants and the views away from a role. Raise NotFound."""
    name = sql.Identifier(role)
    async with pool.connection() as connection, connection.transaction():
        removed = await connection.execute(SQL["remove_analytics_reader"], (role,))
        if not removed.rowcount:
            raise NotFound(f"the role {role} may not read the analytics")
        if await (await connection.execute(SQL["role_exists"], (role,))).fetchone() is not None:
            await connection.execute(sql.SQL("revoke select on all tables in schema analytics from {}").format(name))
            await connection.execute(sql.SQL("revoke usage on schema analytics from {}").format(name))


async def list_analytics_readers(pool: Pool) -> list[tuple[str, str]]:
    """Return the roles with the tenants that they see."""
    return [(role, tenant) for role, tenant in await fetch_rows(pool, "analytics_readers")]
