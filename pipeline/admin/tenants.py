"""Tenants: the customers of this installation, their limits, and whether anything is sent for them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipeline.admin.sql import execute, fetch_row, fetch_rows
from pipeline.content.addresses import header_text_problem
from pipeline.errors import NotFound, Refused
from pipeline.runtime.database import Pool

REASON_MAX_CHARS: Final = 200
SUSPENSION_DELAY_S: Final = 5
"""Seconds in which every gateway and dispatcher knows of a suspension or its end; their caches are shorter."""


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


async def add_tenant(pool: Pool, tenant: Tenant) -> None:
    """Add a tenant or change its limits; all else stays as it is. Raise Refused."""
    values = {"tenant": tenant.tenant, "batch_max": tenant.batch_max, "rate_per_second": tenant.rate_per_second}
    if not await execute(pool, "add_tenant", **values, verified_senders=tenant.verified_senders):
        raise Refused(f"tenant {tenant.tenant} was deleted, and the log still has its mail; choose another name")


async def get_tenant(pool: Pool, name: str) -> TenantSummary:
    """Return a tenant and counts of what it has. Raise NotFound."""
    row = await fetch_row(pool, "tenant", name)
    if row is None:
        raise unknown_tenant(name)
    created_at, suspended_at, keys, brands, destinations = row[5:]
    jobs = await open_jobs(pool, name)
    return TenantSummary(Tenant(*row[:5]), created_at, suspended_at, keys, brands, destinations, jobs)


async def open_jobs(pool: Pool, name: str) -> Mapping[tuple[str, str], int]:
    """Return how many jobs of a tenant are not done, by queue and state."""
    rows = await fetch_rows(pool, "tenant_jobs", name)
    return Counter({(queue, state): count for queue, state, count in rows})


async def suspend_tenant(pool: Pool, name: str, reason: str = "") -> None:
    """Stop all sending for a tenant, or change the reason. Raise NotFound and Refused."""
    if problem := header_text_problem(reason):
        raise Refused(f"can't be taken: {problem}", "--reason")
    if len(reason) > REASON_MAX_CHARS:
        raise Refused(f"over {REASON_MAX_CHARS} characters", "--reason")
    if not await execute(pool, "suspend_tenant", reason, name):
        raise unknown_tenant(name)


async def resume_tenant(pool: Pool, name: str) -> bool:
    """End a suspension, wake the dispatchers, and return whether there was one. Raise NotFound."""
    was_suspended = bool(await execute(pool, "resume_tenant", name))
    if not was_suspended and await fetch_row(pool, "tenant", name) is None:
        raise unknown_tenant(name)
    return was_suspended


def unknown_tenant(name: str) -> NotFound:
    """Return the error about a tenant that does not exist."""
    return NotFound(f"no tenant {name}; `mailfold tenants list` shows all")
