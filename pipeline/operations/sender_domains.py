"""Verify sender domains by their TXT records, and check their SPF, DMARC and DKIM records.

`mailfold domains` calls it; `mailfold doctor` uses the same checks.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from pipeline import admin
from pipeline.admin import SenderDomain
from pipeline.content.dkim import DkimKey
from pipeline.operations.doctor.dns_records import DnsUnavailable, DomainChecker
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, warn
from pipeline.operations.doctor.mail_dns import read_identities
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.secret_ring import SecretRing


class DomainReport(msgspec.Struct, frozen=True):
    """What DNS says about a domain of a tenant."""

    tenant: str
    domain: str
    verification: DoctorFinding
    records: tuple[DoctorFinding, ...]
    """The findings about SPF, DMARC and the DKIM keys that we sign with."""


async def check_domains(
    pool: Pool, ring: SecretRing, checker: DomainChecker, domains: Sequence[SenderDomain]
) -> list[DomainReport]:
    """Look up each domain of these rows once, store those whose record is there as verified, and report."""
    rows = {(row.tenant, row.domain): row for row in domains}
    keys = (await read_identities(pool, ring)).keys.values() if rows else ()
    return await asyncio.gather(*(_check_domain(pool, checker, row, list(keys)) for row in rows.values()))


async def _check_domain(pool: Pool, checker: DomainChecker, row: SenderDomain, keys: Sequence[DkimKey]) -> DomainReport:
    domain = row.domain
    checks = [checker.check_spf(domain), checker.check_dmarc(domain)]
    checks += [checker.check_key(key) for key in keys if key.domain == domain]
    records = await asyncio.gather(*(checker.bounded(domain, check) for check in checks))
    return DomainReport(row.tenant, domain, await _verify(pool, checker, row), tuple(records))


async def _verify(pool: Pool, checker: DomainChecker, row: SenderDomain) -> DoctorFinding:
    publish = f'publish {row.record_name}. IN TXT "{row.record_text}"'
    try:
        is_there = await checker.has_text(row.record_name, row.record_text)
    except DnsUnavailable as error:
        return warn(f"{row.domain} can't be looked up: {error}", "repeat it")
    if is_there:
        await admin.note_verified_domain(pool, row.tenant, row.domain)
        return ok(f"{row.domain} is verified for tenant {row.tenant}")
    if row.verified_at is None:
        return fail(f"{row.domain} is not verified: its record is not there", publish)
    return warn(f"{row.domain} was verified before, and its record is gone", f"{publish}, or `mailfold domains remove`")
