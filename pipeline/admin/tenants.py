"""Who may send: tenants and the hashes of their API keys."""

import hashlib
import secrets
from dataclasses import dataclass

from pipeline.admin.sql import execute, fetch_row
from pipeline.errors import NotFound
from pipeline.runtime.database import Pool


@dataclass(frozen=True)
class Tenant:
    """A customer of this installation. None: the installation's own limit."""

    tenant: str
    batch_max: int | None = None
    rate_per_second: float | None = None


def key_hash(key: str) -> bytes:
    """What is stored of an API key. SHA-256 is enough: the key has 256 random bits, nobody guesses it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def add_tenant(pool: Pool, tenant: Tenant) -> None:
    """Add a tenant or change its limits."""
    await execute(pool, "add_tenant", tenant.tenant, tenant.batch_max, tenant.rate_per_second)


async def add_key(pool: Pool, tenant: str, label: str = "") -> str:
    """A new API key; shown once, only its hash is kept."""
    key = "mf_" + secrets.token_urlsafe(32)
    await execute(pool, "add_key", key_hash(key), tenant, label)
    return key


async def revoke_key(pool: Pool, name: str) -> None:
    """End a key by the name that the list shows. Raises NotFound."""
    if not await execute(pool, "revoke_key", name):
        raise NotFound(f"no API key {name} in force; `mailfold keys list` shows their names")


async def tenant_of_key(pool: Pool, key: str) -> Tenant | None:
    """Whose key this is."""
    return await tenant_of_hash(pool, key_hash(key))


async def tenant_of_hash(pool: Pool, hashed: bytes) -> Tenant | None:
    """Whose key has this hash."""
    row = await fetch_row(pool, "tenant_of_key", hashed)
    return None if row is None else Tenant(*row)
