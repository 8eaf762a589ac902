"""Tenants and their API keys, of which only hashes are stored."""

import hashlib
import secrets
from dataclasses import dataclass

from pipeline.admin.sql import execute, fetch_row
from pipeline.errors import NotFound
from pipeline.runtime.database import Pool


@dataclass(frozen=True)
class Tenant:
    """A customer of this installation, and its limits; None means the installation's own limit."""

    tenant: str
    batch_max: int | None = None
    """Messages in one request."""
    rate_per_second: float | None = None
    """Messages per second."""


def key_hash(key: str) -> bytes:
    """Return the digest under which an API key is stored.

    SHA-256 is enough, because a key with 256 random bits cannot be guessed.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def add_tenant(pool: Pool, tenant: Tenant) -> None:
    """Add a tenant or change its limits."""
    await execute(pool, "add_tenant", tenant.tenant, tenant.batch_max, tenant.rate_per_second)


async def add_key(pool: Pool, tenant: str, label: str = "") -> str:
    """Add an API key and return it; it cannot be shown again, because only its hash is stored."""
    key = "mf_" + secrets.token_urlsafe(32)
    await execute(pool, "add_key", key_hash(key), tenant, label)
    return key


async def revoke_key(pool: Pool, name: str) -> None:
    """Revoke an API key by the name that `mailfold keys list` shows. Raise NotFound."""
    if not await execute(pool, "revoke_key", name):
        raise NotFound(f"no API key {name} in force; `mailfold keys list` shows their names")


async def tenant_of_key(pool: Pool, key: str) -> Tenant | None:
    """Return the tenant of an API key; None if the key is unknown or revoked."""
    return await tenant_of_hash(pool, key_hash(key))


async def tenant_of_hash(pool: Pool, hashed: bytes) -> Tenant | None:
    """Return the tenant of the API key with this hash; None if the key is unknown or revoked."""
    row = await fetch_row(pool, "tenant_of_key", hashed)
    return None if row is None else Tenant(*row)
