"""Sender domains: from which domains a tenant's brands may send. A domain is verified by a TXT record in its DNS.

The `domains` commands write them; the gateway reads them for tenants whose senders must be verified.
"""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pipeline.admin.sql import execute, fetch_row, fetch_rows
from pipeline.content.domains import InvalidDomain, to_ascii
from pipeline.errors import NotFound, Refused
from pipeline.runtime.postgres.database import Pool

ALL_BRANDS: Final = "*"
RECORD_LABEL: Final = "_mailfold"
"""The label below a domain whose TXT records verify it."""
RECORD_PREFIX: Final = "mailfold-verification="
_TOKEN_BYTES: Final = 16


@dataclass(frozen=True)
class SenderDomain:
    """A domain from which a brand of a tenant sends, or all with brand ``*``."""

    tenant: str
    domain: str
    """With A-labels, in lower case."""
    brand: str
    token: str
    created_at: datetime
    verified_at: datetime | None

    @property
    def record_name(self) -> str:
        """Return the name of the TXT record that verifies the domain."""
        return f"{RECORD_LABEL}.{self.domain}"

    @property
    def record_text(self) -> str:
        """Return the text of the TXT record that verifies the domain."""
        return RECORD_PREFIX + self.token


@dataclass(frozen=True)
class SenderRules:
    """The verified domains of one tenant, and the senders of its brands."""

    domains_by_brand: Mapping[str, frozenset[str]] = field(default_factory=dict)
    senders_by_brand: Mapping[str, str] = field(default_factory=dict)
    """The configured sender of each brand that has a row; empty for the installation's own address."""

    def allows(self, brand: str, address: str) -> bool:
        """Return whether a brand may send from an address: its domain, or one above it, is verified."""
        try:
            domain = to_ascii(address.rpartition("@")[2])
        except InvalidDomain:
            return False
        verified = self.domains_by_brand
        return any(name in verified.get(owner, ()) for name in _with_parents(domain) for owner in {brand, ALL_BRANDS})

    def problem(self, brand: str, address: str | None) -> str:
        """Return why a brand may not send from an address; empty if it may. None is the brand's own sender."""
        if address is not None:
            return "" if self.allows(brand, address) else "the sender's domain is not a verified one of this tenant"
        sender = self.senders_by_brand.get(brand, self.senders_by_brand.get(ALL_BRANDS, ""))
        if not sender or self.allows(brand, sender):
            return ""
        return "the domain of the brand's sender is not a verified one of this tenant"


def normalize_domain(text: str) -> str:
    """Return a domain that is typed in any spelling, with A-labels and in lower case. Raise Refused."""
    try:
        domain = to_ascii(text.strip().removesuffix("."))
    except InvalidDomain as error:
        raise Refused(f"not a domain name: {error}", "domain") from None
    if "." not in domain or domain.rpartition(".")[2].isdecimal():
        raise Refused("not a domain name with a dot, such as shop.example", "domain")
    return domain


async def add_sender_domain(pool: Pool, tenant: str, domain: str, brand: str = ALL_BRANDS) -> SenderDomain:
    """Add a domain and return it with its token; one that is there stays as it is. Raise Refused.

    Where the domain is verified for another brand of the tenant, it is verified for this one, too.
    """
    name = normalize_domain(domain)
    await execute(pool, "add_sender_domain", tenant, name, brand, secrets.token_hex(_TOKEN_BYTES), tenant, name)
    return next(each for each in await list_sender_domains(pool, tenant, name) if each.brand == brand)


async def list_sender_domains(pool: Pool, tenant: str = "", domain: str = "") -> list[SenderDomain]:
    """Return all domains, or those of a tenant, or the rows of one domain. Raise Refused for what is no domain."""
    name = normalize_domain(domain) if domain else ""
    return [SenderDomain(*row) for row in await fetch_rows(pool, "sender_domains", tenant, tenant, name, name)]


async def note_verified_domain(pool: Pool, tenant: str, domain: str) -> None:
    """Store that the record of a domain was seen, for all brands that it was added for."""
    await execute(pool, "note_verified_domain", tenant, domain)


async def remove_sender_domain(pool: Pool, tenant: str, domain: str, brand: str = ALL_BRANDS) -> None:
    """Remove a domain of a brand, or of all brands with ``*``. Raise NotFound and Refused."""
    name = normalize_domain(domain)
    if not await execute(pool, "remove_sender_domain", tenant, name, brand):
        raise NotFound(f"tenant {tenant} has no domain {name} for brand {brand}; `mailfold domains list` shows all")


async def require_verified_senders(pool: Pool, tenant: str, *, is_required: bool) -> None:
    """Accept a tenant's mail from verified domains only, or from every domain. Raise NotFound."""
    if not await execute(pool, "require_verified_senders", is_required, tenant):
        raise NotFound(f"no tenant {tenant}; `mailfold tenants list` shows all")


async def has_other_tenants(pool: Pool, tenant: str) -> bool:
    """Return whether this tenant does not exist, and another does: a new one must verify its senders."""
    row = await fetch_row(pool, "has_other_tenants", tenant)
    return row is not None and bool(row[0])


async def get_sender_rules(pool: Pool, tenant: str) -> SenderRules:
    """Return from which domains a tenant may send while its senders must be verified."""
    domains: dict[str, frozenset[str]] = {}
    senders: dict[str, str] = {}
    for kind, brand, value in await fetch_rows(pool, "sender_rules", tenant, tenant):
        if kind == "domain":
            domains[brand] = domains.get(brand, frozenset()) | {value}
        else:
            senders[brand] = value
    return SenderRules(domains, senders)


async def check_brand_sender(pool: Pool, tenant: str, brand: str, address: str) -> None:
    """Raise Refused where a tenant's senders must be verified and this address of a brand is not."""
    row = await fetch_row(pool, "verified_senders", tenant)
    if not address or row is None or not row[0]:
        return
    if not (await get_sender_rules(pool, tenant)).allows(brand, address):
        domain = address.rpartition("@")[2]
        raise Refused(
            f"{domain} is not a verified domain of tenant {tenant}; `mailfold domains add` begins it", "sender"
        )


def _with_parents(domain: str) -> Iterator[str]:
    """Yield the domain and those above it."""
    while domain:
        yield domain
        domain = domain.partition(".")[2]
