"""Tenants: the customers of this installation, and their limits."""

from dataclasses import dataclass

from pipeline.admin.sql import execute
from pipeline.runtime.database import Pool


@dataclass(frozen=True)
class Tenant:
    """A customer of this installation, and its limits; None means the installation's own limit."""

    tenant: str
    batch_max: int | None = None
    """Messages in one request."""
    rate_per_second: float | None = None
    """Messages per second."""


async def add_tenant(pool: Pool, tenant: Tenant) -> None:
    """Add a tenant or change its limits."""
    await execute(pool, "add_tenant", tenant.tenant, tenant.batch_max, tenant.rate_per_second)
