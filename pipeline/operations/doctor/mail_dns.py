"""Check the DNS of the domains that mail is sent with: the mail domain, senders' domains and DKIM keys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection
from typing import Final

import msgspec

from pipeline import admin
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.routes import get_brand_routing
from pipeline.errors import DatabaseUnavailable, InvalidSettings, NotFound, SchemaMismatch
from pipeline.operations.doctor.dns_records import (
    DnsResolver,
    DnsUnavailable,
    DomainChecker,
    ascii_domain,
)
from pipeline.operations.doctor.finding import DoctorFinding, fail, skip
from pipeline.operations.doctor.host import is_local
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.secrets.secret_ring import SecretRing, secret_ring
from pipeline.settings import Settings

MAX_SENDER_DOMAINS: Final = 100


class SenderIdentities(msgspec.Struct):
    """What brands send as: the domains of their senders, and the keys that sign their messages."""

    domains: set[str] = msgspec.field(default_factory=set)
    keys: dict[tuple[str, str], DkimKey] = msgspec.field(default_factory=dict)
    """Domain and selector -> key."""


async def check_dns(
    settings: Settings, *, domains: Collection[str] = (), resolver: DnsResolver | None = None
) -> AsyncIterator[DoctorFinding]:
    """Yield the findings about the mail domain, the domains of brands' senders, and ``domains`` beside them."""
    try:
        checker = DomainChecker(resolver, settings.dns_server)
        mail_domain = ascii_domain(settings.mail_domain)
        asked = {ascii_domain(domain) for domain in domains}
    except DnsUnavailable as error:
        yield fail(f"DNS is not checked: {error}", "correct MAILFOLD_MAIL_DOMAIN or --domain")
        return
    if is_local(mail_domain):
        yield skip(f"MAILFOLD_MAIL_DOMAIN is {mail_domain}, which only this machine knows: no DNS to check")
    checks = [] if is_local(mail_domain) else _checks_of_mail_domain(checker, mail_domain)
    # Postgres may take as long to be away as the name servers.
    found, identities = await asyncio.gather(asyncio.gather(*checks), _read_identities(settings))
    for finding in found:
        yield finding
    if identities is None:
        yield skip("the domains of brands' senders are not checked without Postgres and its schema")
        identities = SenderIdentities()
    senders = sorted(domain for domain in {*identities.domains, *asked} - {mail_domain} if not is_local(domain))
    keys = [key for key in identities.keys.values() if not is_local(key.domain)]
    for finding in await asyncio.gather(*_checks_of_senders(checker, senders[:MAX_SENDER_DOMAINS], keys)):
        yield finding
    if len(senders) > MAX_SENDER_DOMAINS:
        yield skip(f"{len(senders) - MAX_SENDER_DOMAINS} more domains of senders are not checked")


def _checks_of_mail_domain(checker: DomainChecker, domain: str) -> list[Awaitable[DoctorFinding]]:
    checks = (checker.check_bounces(domain), checker.check_spf(domain), checker.check_dmarc(domain))
    return [checker.bounded(domain, check) for check in checks]


def _checks_of_senders(
    checker: DomainChecker, domains: list[str], keys: list[DkimKey]
) -> list[Awaitable[DoctorFinding]]:
    checks: list[Awaitable[DoctorFinding]] = []
    for domain in domains:
        checks += [
            checker.bounded(domain, check)
            for check in (checker.check_replies(domain), checker.check_spf(domain), checker.check_dmarc(domain))
        ]
    return checks + [checker.bounded(key.domain, checker.check_key(key)) for key in keys]


async def _read_identities(settings: Settings) -> SenderIdentities | None:
    """Return what brands send as; None where Postgres or its schema is away, as other checks say."""
    try:
        async with open_database(settings, size=1) as pool:
            return await read_identities(pool, secret_ring(settings))
    except (DatabaseUnavailable, SchemaMismatch, InvalidSettings):
        return None


async def read_identities(pool: Pool, ring: SecretRing) -> SenderIdentities:
    """Return the domains and keys of all brands; a key that the secrets do not open is left out."""
    identities = SenderIdentities()
    for tenant, brand, *_ in await admin.fetch_rows(pool, "list_brands"):
        try:
            routing = await get_brand_routing(pool, tenant, brand, ring)
        except (InvalidSettings, NotFound):  # the check of Setup tells the first; the second was removed just now
            continue
        sender = routing.brand.sender_address.rpartition("@")[2]
        try:
            identities.domains |= {ascii_domain(sender)} if sender else set()
        except DnsUnavailable:
            continue
        if routing.dkim is not None:
            identities.keys[routing.dkim.domain, routing.dkim.selector] = routing.dkim
    return identities
