"""Look up the DNS records of one domain and judge them: MX, SPF, DMARC, DKIM; `mail_dns.py` calls it."""

import asyncio
import re
from collections.abc import Awaitable, Iterator
from typing import Any, Final, Literal

import dns.asyncresolver
import dns.exception
import dns.resolver

from pipeline.content.dkim import DkimKey, dns_record
from pipeline.content.domains import InvalidDomain, to_ascii
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, warn

QUERY_TIMEOUT_S: Final = 2.0
"""Seconds for one question to one name server."""
LOOKUP_TIMEOUT_S: Final = 5.0
"""Seconds for one name and type, with all repetitions."""
MAX_CONCURRENT_LOOKUPS: Final = 20
MAX_SHOWN_CHARS: Final = 100
NULL_MX: Final = "."
"""The host in the MX record of a domain that takes no mail (RFC 7505)."""

DnsResolver = dns.asyncresolver.Resolver
RecordType = Literal["MX", "A", "AAAA", "TXT"]
_POLICY: Final = re.compile(r"(?:^|;)\s*p\s*=\s*([^;\s]*)")
"""The tag `p` of a record: DMARC's policy, or DKIM's key."""


class DnsUnavailable(Exception):
    """No name server answers the question; the message names it."""


def make_resolver(server: str) -> DnsResolver:
    """Return a resolver that asks this server (``MAILFOLD_DNS_SERVER``), or this machine's name servers if it is empty.

    Raise DnsUnavailable if this machine has none.
    """
    try:
        resolver = dns.asyncresolver.Resolver(configure=not server)
    except dns.resolver.NoResolverConfiguration as error:
        raise DnsUnavailable("this machine has no name servers") from error
    if server:
        address, _, port = server.removeprefix("[").partition("]" if server.startswith("[") else ":")
        resolver.nameservers = [address]
        resolver.port = int(port.removeprefix(":") or 53)
    resolver.timeout, resolver.lifetime = QUERY_TIMEOUT_S, LOOKUP_TIMEOUT_S
    return resolver


class DomainChecker:
    """Judges domains by what a resolver answers, or the one of a server; several questions at a time."""

    def __init__(self, resolver: DnsResolver | None = None, server: str = "") -> None:
        self._resolver = resolver
        self._server = server
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS)

    async def check_bounces(self, domain: str) -> DoctorFinding:
        """Return whether bounces find their way to the mail domain, which is in every return path."""
        todo = "let its MX name the host that passes mail to the gateway, or bounces are lost"
        hosts = await self._mail_hosts(domain)
        if NULL_MX in hosts:
            return fail(f"{domain}: its MX says that it takes no mail", todo)
        if hosts:
            return ok(f"{domain}: bounces go to {_shown(', '.join(hosts))}")
        if await self._has_address(domain):
            return warn(f"{domain} has no MX: bounces go to the host of that name", todo)
        return fail(f"{domain} has neither MX nor address", todo)

    async def check_replies(self, domain: str) -> DoctorFinding:
        """Return whether a sender's domain takes mail: many receivers refuse mail from one that does not."""
        todo = "give the domain an MX, or send from another"
        hosts = await self._mail_hosts(domain)
        if NULL_MX in hosts:
            return warn(f"{domain}: its MX says that it takes no mail; some receivers refuse mail from it", todo)
        if hosts or await self._has_address(domain):
            return ok(f"{domain} takes mail")
        return fail(f"{domain} has neither MX nor address: receivers refuse mail from it", todo)

    async def check_spf(self, domain: str) -> DoctorFinding:
        """Return whether the domain says which hosts may send for it (RFC 7208); the hosts are not compared."""
        records = [text for text in await self._texts(domain) if re.match(r"v=spf1(?:\s|$)", text, re.IGNORECASE)]
        if not records:
            return warn(
                f"{domain} has no SPF record", "publish one that names the hosts or providers which send for it"
            )
        if len(records) > 1:
            return fail(f"{domain} has {len(records)} SPF records, so that none counts", "make one record of them")
        if re.search(r"\s\+?all\b", records[0], re.IGNORECASE):
            return warn(f"{domain}: its SPF record lets everybody send for it", "let it end with ~all or -all")
        return ok(f"{domain}: {_shown(records[0])}")

    async def check_dmarc(self, domain: str) -> DoctorFinding:
        """Return whether the domain, or the nearest above it, has a DMARC policy."""
        for name in _with_parents(domain):
            records = [text for text in await self._texts(f"_dmarc.{name}") if text.upper().startswith("V=DMARC1")]
            if len(records) > 1:
                return fail(f"_dmarc.{name} has {len(records)} records, so that none counts", "leave one of them")
            if records:
                policy = _POLICY.search(records[0])
                return ok(f"{domain}: DMARC policy {_shown(policy[1]) if policy else 'none'} of _dmarc.{name}")
        return warn(
            f"{domain} has no DMARC record; large receivers want one of whoever sends much",
            f'publish at _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:…"',
        )

    async def check_key(self, key: DkimKey) -> DoctorFinding:
        """Return whether DNS publishes the key with which messages are signed."""
        name = f"{key.selector}._domainkey.{key.domain}"
        record = f"publish it: {dns_record(key)}"
        records = [found[1] for text in await self._texts(name) if (found := _POLICY.search(text))]
        if not records:
            return fail(f"{name} has no DKIM key: no signature of ours is valid", record)
        published = re.sub(r"\s", "", records[0])
        if not published:
            return fail(f"{name}: the DKIM key is revoked there", record)
        if f"p={published}" not in re.sub(r'["\s]', "", dns_record(key)):
            return fail(f"{name} has another DKIM key than the one that signs", record)
        return ok(f"{name} has the DKIM key that signs")

    async def has_text(self, name: str, text: str) -> bool:
        """Return whether one of a name's own TXT records is this text, not an alias's. Raise DnsUnavailable.

        A domain's wildcard may be an alias of a name that its host, and not its owner, controls.
        """
        return text in [found.strip() for found in await self._texts(name, follows_aliases=False)]

    async def bounded(self, domain: str, check: Awaitable[DoctorFinding]) -> DoctorFinding:
        """Return what a check finds, or that the domain can't be looked up."""
        try:
            async with self._slots:
                return await check
        except DnsUnavailable as error:
            return warn(
                f"{domain} can't be looked up: {error}", "can this machine reach its name servers (/etc/resolv.conf)?"
            )

    async def _mail_hosts(self, domain: str) -> list[str]:
        """Return the hosts of a domain's MX records, the preferred one first."""
        records = sorted(await self._look_up(domain, "MX"), key=lambda record: record.preference)
        return [record.exchange.to_text().rstrip(".") or NULL_MX for record in records]

    async def _has_address(self, domain: str) -> bool:
        return bool(await self._look_up(domain, "A") or await self._look_up(domain, "AAAA"))

    async def _texts(self, name: str, *, follows_aliases: bool = True) -> list[str]:
        """Return the texts of TXT records; the strings of one record are joined, as RFC 7208 and RFC 6376 say."""
        records = await self._look_up(name, "TXT", follows_aliases=follows_aliases)
        return [b"".join(record.strings).decode("utf-8", "replace") for record in records]

    async def _look_up(self, name: str, kind: RecordType, *, follows_aliases: bool = True) -> list[Any]:
        """Return the records of a name; none where there is no such name. Raise DnsUnavailable."""
        resolver = self._resolver = self._resolver or make_resolver(self._server)
        try:
            answer = await resolver.resolve(f"{name}.", kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return []
        except dns.exception.Timeout as error:
            raise DnsUnavailable(f"no answer within {resolver.lifetime:g} s") from error
        except dns.resolver.NoNameservers as error:
            raise DnsUnavailable(f"the name servers have no answer for {kind} of {name}") from error
        except (dns.exception.DNSException, OSError) as error:
            raise DnsUnavailable(f"{kind} of {name}: {type(error).__name__}") from error
        if not follows_aliases and answer.canonical_name != answer.qname:
            return []
        return list(answer.rrset or ())


def ascii_domain(domain: str) -> str:
    """Return the domain as DNS knows it. Raise DnsUnavailable for a text that is none."""
    try:
        return to_ascii(domain.rstrip("."))
    except InvalidDomain as error:
        raise DnsUnavailable(f"no domain name: {error}") from error


def _with_parents(domain: str) -> Iterator[str]:
    """Yield the domain and those above it, without the top level."""
    labels = domain.split(".")
    for start in range(max(1, len(labels) - 1)):
        yield ".".join(labels[start:])


def _shown(text: str) -> str:
    """Return a stranger's text short enough for a line, without what a terminal might obey."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= MAX_SHOWN_CHARS else printable[: MAX_SHOWN_CHARS - 1] + "…"
