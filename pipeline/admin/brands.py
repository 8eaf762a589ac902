"""A tenant's brands: the providers they send through, and the destinations of their conversions."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pipeline.admin.sender_domains import check_brand_sender
from pipeline.admin.sql import execute, fetch_row
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.runtime.secrets.signing import seal, unseal

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Brand:
    """How a tenant's brand sends; brand ``*`` is for those without a row of their own."""

    tenant: str
    brand: str
    provider: str
    unknown_policy: str = "resend"
    unsubscribe: bool = True
    """Its messages have headers for one-click unsubscribe (RFC 8058)."""
    trap_link: bool = False
    """Its messages contain an invisible link, whose clicks reveal bots."""
    sender_address: str = ""
    """The sender where a request names none; empty: no-reply@MAILFOLD_MAIL_DOMAIN."""
    sender_name: str = ""


@dataclass(frozen=True)
class Destination:
    """The URL that a brand's conversions are sent to."""

    tenant: str
    brand: str
    url: str
    key: str = field(repr=False)
    """The value of the header X-API-KEY."""
    user_id_integer: bool = False
    """`activity.user_id` is sent as a number; all other fields are sent as they were received."""


async def add_brand(pool: Pool, brand: Brand) -> None:
    """Add a brand or change it. Raise Refused."""
    await check_brand_sender(pool, brand.tenant, brand.brand, brand.sender_address)
    values = (brand.unknown_policy, brand.unsubscribe, brand.trap_link, brand.sender_address, brand.sender_name)
    await execute(pool, "add_brand", brand.tenant, brand.brand, brand.provider, *values)


async def add_destination(pool: Pool, destination: Destination, ring: SecretRing) -> None:
    """Add a destination of conversions, or change it; its key is sealed with ``ring``."""
    sealed = seal(ring, destination.key)
    values = (destination.tenant, destination.brand, destination.url, sealed, destination.user_id_integer)
    await execute(pool, "add_destination", *values)


async def get_destination(pool: Pool, tenant: str, brand: str, ring: SecretRing) -> Destination | None:
    """Return the brand's destination, else the tenant's for ``*``, else None."""
    row = await fetch_row(pool, "destination", tenant, brand)
    if row is None:
        return None
    owner, name, url, sealed, user_id_integer = row
    return Destination(owner, name, url, unseal(ring, sealed), user_id_integer)


def is_unencrypted_url(url: str) -> bool:
    """Return whether requests to this URL cross a network unencrypted: it is http, and not to this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname not in LOCAL_HOSTS
