"""Through whom a tenant's brands send, and where their conversions go."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pipeline.admin.sql import execute, fetch_row
from pipeline.runtime.database import Pool
from pipeline.runtime.signing import seal, unseal

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Brand:
    """Which provider a tenant's brand sends through; brand ``*`` serves those without a row of their own."""

    tenant: str
    brand: str
    provider: str
    unknown_policy: str = "resend"
    unsubscribe: bool = True
    """Its messages say how to unsubscribe, to programs (RFC 8058)."""
    trap_link: bool = False
    """Its messages carry a link that no human sees."""
    sender_address: str = ""
    """Whom its messages are from where a request names nobody; empty: no-reply@MAILFOLD_MAIL_DOMAIN."""
    sender_name: str = ""


@dataclass(frozen=True)
class Destination:
    """Where a brand's conversions go, and the X-API-KEY that goes with them."""

    tenant: str
    brand: str
    url: str
    key: str = field(repr=False)
    user_id_integer: bool = False
    """`activity.user_id` goes back as a number; everything else as it came."""


async def add_brand(pool: Pool, brand: Brand) -> None:
    """Add a brand or change it."""
    values = (brand.unknown_policy, brand.unsubscribe, brand.trap_link, brand.sender_address, brand.sender_name)
    await execute(pool, "add_brand", brand.tenant, brand.brand, brand.provider, *values)


async def add_destination(pool: Pool, destination: Destination, secret: str) -> None:
    """Add where a brand's conversions go, or change it."""
    sealed = seal(secret, destination.key)
    place = (destination.tenant, destination.brand, destination.url)
    await execute(pool, "add_destination", *place, sealed, destination.user_id_integer)


async def get_destination(pool: Pool, tenant: str, brand: str, secret: str) -> Destination | None:
    """The brand's destination, else the tenant's ``*``, else None."""
    row = await fetch_row(pool, "destination", tenant, brand)
    if row is None:
        return None
    owner, name, url, sealed, user_id_integer = row
    return Destination(owner, name, url, unseal(secret, sealed), user_id_integer)


def is_unencrypted_url(url: str) -> bool:
    """Return whether what is sent to this URL can be read on its way: http, and not to this very machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname not in LOCAL_HOSTS
