"""Tenants: the customers of this installation, their limits, and whether anything is sent for them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg

from pipeline.admin.sql import SQL, execute, fetch_row
from pipeline.content.addresses import header_text_problem
from pipeline.errors import NotFound, Refused
from pipeline.runtime.postgres.database import Pool
from topics.registry import MESSAGE_CONTENTS

REASON_MAX_CHARS: Final = 200
SUSPENSION_DELAY_S: Final = 5
"""Seconds in which every gateway and dispatcher knows of a suspension or its end; their caches are shorter."""

CONTENT_RETENTION: Final = timedelta(milliseconds=MESSAGE_CONTENTS.retention_ms)
"""Time after which an accepted email that was not sent has lost its content."""


@dataclass(frozen=True)
class Tenant:
    """A customer of this installation, and its limits; None means the installation's own limit."""

    tenant: str
    batch_max: int | None = None
    """Messages in one request."""
    rate_per_second: float | None = None
    """Messages per second."""
    suspension: str | None = None
    """The reason why nothing is sent for it, which its callers are told; None if it is not suspended."""
    verified_senders: bool = False
    """Its mail is accepted from verified domains only."""


@dataclass(frozen=True)
class TenantSummary:
    """A tenant as `mailfold tenants show` prints it."""

    tenant: Tenant
    created_at: datetime
    suspended_at: datetime | None
    keys: int
    """API keys in force."""
    brands: int
    destinations: int
    jobs: Mapping[tuple[str, str], int]
    """Jobs that are not done, by queue and state."""


@dataclass(frozen=True)
class WaitingMail:
    """The accepted emails of a tenant that are not sent yet."""

    oldest_at: datetime | None
    """When the oldest was accepted; None if none waits."""
    expired: int
    """How many waited for longer than contents are kept, and will fail."""


async def add_tenant(pool: Pool, tenant: Tenant) -> None:
    """Add a tenant or change its limits; all else stays as it is. Raise Refused."""
    try:
        async with pool.connection() as connection:
            await connection.execute(SQL["add_tenant"], vars(tenant))
            # A statement of its own, which sees a deletion that ended while the one before waited for the row.
            if await is_deleted(connection, tenant.tenant):
                # Raised within the transaction, which it rolls back.
                raise Refused(
                    f"tenant {tenant.tenant} was deleted, and the log still has its mail; choose another name"
                )
    except psycopg.errors.CheckViolation as error:
        raise Refused(f"not a value that can be taken: {error.diag.constraint_name}") from error


async def is_deleted(connection: psycopg.AsyncConnection[Any], name: str) -> bool:
    """Return whether a tenant of this name was deleted, or is being deleted."""
    row = await (await connection.execute(SQL["is_deleted"], (name,))).fetchone()
    return row is not None and bool(row[0])


async def get_tenant(pool: Pool, name: str) -> TenantSummary:
    """Return a tenant and counts of what it has. Raise NotFound."""
    row = await fetch_row(pool, "tenant", name)
    if row is None:
        raise unknown_tenant(name)
    created_at, suspended_at, keys, brands, destinations = row[5:]
    async with pool.connection() as connection:
        jobs = await open_jobs(connection, name)
    return TenantSummary(Tenant(*row[:5]), created_at, suspended_at, keys, brands, destinations, jobs)


async def list_lanes(connection: psycopg.AsyncConnection[Any], name: str) -> list[str]:
    """Return the lanes of a tenant in which jobs are pending or attempted."""
    return [lane for (lane,) in await (await connection.execute(SQL["tenant_lanes"], (name,))).fetchall()]


async def open_jobs(connection: psycopg.AsyncConnection[Any], name: str) -> Mapping[tuple[str, str], int]:
    """Return how many jobs of a tenant are not done, by queue and state."""
    values = {"tenant": name, "lanes": await list_lanes(connection, name)}
    rows = await (await connection.execute(SQL["tenant_jobs"], values)).fetchall()
    return Counter({(queue, state): count for queue, state, count in rows})


async def get_waiting_mail(pool: Pool, name: str) -> WaitingMail:
    """Return for how long a tenant's accepted mail waits."""
    async with pool.connection() as connection:
        values = {"kept": CONTENT_RETENTION, "lanes": await list_lanes(connection, name)}
        row = await (await connection.execute(SQL["waiting_mail"], values)).fetchone()
    return WaitingMail(*row) if row else WaitingMail(None, 0)


async def suspend_tenant(pool: Pool, name: str, reason: str = "") -> None:
    """Stop all sending for a tenant, or change the reason. Raise NotFound and Refused."""
    if problem := header_text_problem(reason):
        raise Refused(f"can't be taken: {problem}", "--reason")
    if len(reason) > REASON_MAX_CHARS:
        raise Refused(f"over {REASON_MAX_CHARS} characters", "--reason")
    if not await execute(pool, "suspend_tenant", reason, name):
        raise unknown_tenant(name)


async def get_suspension(pool: Pool, name: str) -> str | None:
    """Return why a tenant is suspended, or None if it may send. Raise NotFound."""
    row = await fetch_row(pool, "suspension", name)
    if row is None:
        raise unknown_tenant(name)
    reason: str | None = row[0]
    return reason


async def resume_tenant(pool: Pool, name: str) -> bool:
    """End a suspension, wake the dispatchers, and return whether there was one. Raise NotFound."""
    was_suspended = bool(await execute(pool, "resume_tenant", name))
    if not was_suspended and await fetch_row(pool, "tenant", name) is None:
        raise unknown_tenant(name)
    return was_suspended


def unknown_tenant(name: str) -> NotFound:
    """Return the error about a tenant that does not exist."""
    return NotFound(f"no tenant {name}; `mailfold tenants list` shows all")
