"""What an operator decides: tenants, API keys, providers, brands, destinations. Rows in, frozen values out."""

import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pipeline.database import Pool
from pipeline.errors import NotFound, Refused
from pipeline.signing import seal, unseal
from projections.sql import Queries

SQL = Queries(Path(__file__).with_name("admin.sql"))


@dataclass(frozen=True)
class Tenant:
    """A customer of this installation. None: the installation's own limit."""

    tenant: str
    batch_max: int | None = None
    rate_per_second: float | None = None


@dataclass(frozen=True)
class Provider:
    """Who carries our mail."""

    provider: str
    host: str
    port: int
    kind: str = "smtp"
    tls: str = "opportunistic"
    username: str = ""
    password: str = field(default="", repr=False)
    means_delivered: bool = False
    max_connections: int = 8
    webhook_key: str = ""


@dataclass(frozen=True)
class Brand:
    """Which provider a tenant's brand sends through; brand ``*`` serves those without a row of their own."""

    tenant: str
    brand: str
    provider: str
    unknown_policy: str = "resend"


@dataclass(frozen=True)
class Destination:
    """Where a brand's conversions go, and the X-API-KEY that goes with them."""

    tenant: str
    brand: str
    url: str
    key: str = field(repr=False)
    user_id_integer: bool = False
    """`activity.user_id` goes back as a number; everything else as it came."""


def key_hash(key: str) -> bytes:
    """What is stored of an API key. SHA-256 is enough: the key has 256 random bits, nobody guesses it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


async def add_tenant(pool: Pool, tenant: Tenant) -> None:
    """Add a tenant or change its limits."""
    await _write(pool, "add_tenant", tenant.tenant, tenant.batch_max, tenant.rate_per_second)


async def add_key(pool: Pool, tenant: str, label: str = "") -> str:
    """A new API key; shown once, only its hash is kept."""
    key = "mf_" + secrets.token_urlsafe(32)
    await _write(pool, "add_key", key_hash(key), tenant, label)
    return key


async def revoke_key(pool: Pool, name: str) -> None:
    """End a key by the name that the list shows. Raises NotFound."""
    if not await _write(pool, "revoke_key", name):
        raise NotFound(f"no API key {name} in force; `mailfold keys list` shows their names")


async def tenant_of_key(pool: Pool, key: str) -> Tenant | None:
    """Whose key this is."""
    return await tenant_of_hash(pool, key_hash(key))


async def tenant_of_hash(pool: Pool, hashed: bytes) -> Tenant | None:
    """Whose key has this hash."""
    row = await _one(pool, "tenant_of_key", hashed)
    return None if row is None else Tenant(*row)


async def add_provider(pool: Pool, provider: Provider, secret: str) -> None:
    """Add a provider or change it."""
    sealed = seal(secret, provider.password) if provider.password else None
    await _write(
        pool,
        "add_provider",
        *(provider.provider, provider.kind, provider.host, provider.port, provider.tls, provider.username),
        *(sealed, provider.means_delivered, provider.max_connections, provider.webhook_key),
    )


async def get_provider(pool: Pool, name: str, secret: str) -> Provider:
    """A provider with its credential. Raises NotFound."""
    row = await _one(pool, "provider", name)
    if row is None:
        raise NotFound(f"no provider {name}; `mailfold providers add` makes one")
    return _provider(row, secret)


async def providers(pool: Pool, secret: str) -> list[Provider]:
    """All providers."""
    return [_provider(row, secret) for row in await rows(pool, "providers")]


async def add_brand(pool: Pool, brand: Brand) -> None:
    """Add a brand or change it."""
    await _write(pool, "add_brand", brand.tenant, brand.brand, brand.provider, brand.unknown_policy)


async def get_brand(pool: Pool, tenant: str, brand: str) -> Brand:
    """The brand's row, else the tenant's ``*``. Raises NotFound."""
    row = await _one(pool, "brand", tenant, brand)
    if row is None:
        raise NotFound(f"tenant {tenant} has no brand {brand} and no brand *; `mailfold brands add` makes one")
    return Brand(*row)


async def add_destination(pool: Pool, destination: Destination, secret: str) -> None:
    """Add where a brand's conversions go, or change it."""
    sealed = seal(secret, destination.key)
    place = (destination.tenant, destination.brand, destination.url)
    await _write(pool, "add_destination", *place, sealed, destination.user_id_integer)


async def get_destination(pool: Pool, tenant: str, brand: str, secret: str) -> Destination | None:
    """The brand's destination, else the tenant's ``*``, else None."""
    row = await _one(pool, "destination", tenant, brand)
    if row is None:
        return None
    owner, name, url, sealed, user_id_integer = row
    return Destination(owner, name, url, unseal(secret, sealed), user_id_integer)


async def rows(pool: Pool, name: str) -> list[tuple[Any, ...]]:
    """A listing's rows, by the name of its query."""
    async with pool.connection() as connection:
        return await (await connection.execute(SQL[name])).fetchall()


def _provider(row: tuple[Any, ...], secret: str) -> Provider:
    name, kind, host, port, tls, username, sealed, means_delivered, max_connections, webhook_key = row
    password = unseal(secret, sealed) if sealed is not None else ""
    return Provider(name, host, port, kind, tls, username, password, means_delivered, max_connections, webhook_key)


async def _one(pool: Pool, name: str, *values: Any) -> tuple[Any, ...] | None:
    async with pool.connection() as connection:
        row: tuple[Any, ...] | None = await (await connection.execute(SQL[name], values)).fetchone()
        return row


async def _write(pool: Pool, name: str, *values: Any) -> int:
    try:
        async with pool.connection() as connection:
            return (await connection.execute(SQL[name], values)).rowcount
    except psycopg.errors.ForeignKeyViolation as error:
        raise Refused(f"it refers to something that doesn't exist: {error.diag.message_detail}") from error
    except psycopg.errors.CheckViolation as error:
        raise Refused(f"not a value that can be taken: {error.diag.constraint_name}") from error
