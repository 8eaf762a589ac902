"""Check this machine and its settings: the secret, the data folder's disk, the spool, certificates, the mail domain."""

import datetime as dt
import ipaddress
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
from cryptography import x509

from pipeline.errors import InvalidSettings
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, skip, warn
from pipeline.runtime.secret_ring import NamedSecret, secret_ring
from pipeline.settings import Settings

MIN_SECRET_BITS: Final = 100
WARN_FREE_BYTES: Final = 5_000_000_000
FAIL_FREE_BYTES: Final = 1_000_000_000
WARN_FREE_SHARE: Final = 0.1
CERTIFICATE_WARN_DAYS: Final = 21
LOCAL_DOMAINS: Final = ("localhost", "test", "example", "invalid", "local")


async def check_host(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield the findings about this machine and the settings that this process has."""
    for finding in _check_secrets(settings):
        yield finding
    yield disk_finding(settings.data_dir)
    for finding in _check_spool(settings.data_dir / "spool"):
        yield finding
    for variable, path in (
        ("MAILFOLD_INBOUND_CERTIFICATE", settings.inbound_certificate),
        ("KAFKA_SSL_CERTIFICATE_FILE", settings.kafka_ssl_certificate_file),
        ("KAFKA_SSL_CA_FILE", settings.kafka_ssl_ca_file),
    ):
        if path:
            yield certificate_finding(variable, Path(path))
    yield public_url_finding(settings.public_url)
    yield domain_finding(settings.mail_domain)


def _check_secrets(settings: Settings) -> Iterator[DoctorFinding]:
    try:
        ring = secret_ring(settings)
    except InvalidSettings as error:
        yield fail(str(error), "`openssl rand -base64 48` makes a secret; docs/how-to/rotate-secrets.md replaces one")
        return
    for secret in ring.secrets:
        yield secret_finding(secret)


def secret_finding(secret: NamedSecret) -> DoctorFinding:
    """Return whether a secret is random enough; it signs links that strangers can try to forge."""
    if entropy_bits(secret.value) < MIN_SECRET_BITS:
        return warn(
            f"the secret {secret.id} repeats few characters and might be guessed",
            "`mailfold secrets rotate` replaces it (docs/how-to/rotate-secrets.md)",
        )
    return ok(f"the secret {secret.id} has {len(secret.value)} characters that look random")


def entropy_bits(text: str) -> float:
    """Return the bits of a text if its characters were drawn at random as often as they occur in it."""
    counts = Counter(text)
    return -sum(count * math.log2(count / len(text)) for count in counts.values())


def disk_finding(folder: Path) -> DoctorFinding:
    """Return whether the disk of the data folder, or of the nearest folder above that exists, has room."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage = psutil.disk_usage(str(place))
    text = f"{usage.free / 1e9:.1f} GB free on the disk of {folder}"
    todo = "make room, or set MAILFOLD_DATA_DIR to a larger disk"
    if usage.free < FAIL_FREE_BYTES:
        return fail(text, todo)
    if usage.free < WARN_FREE_BYTES and usage.free < WARN_FREE_SHARE * usage.total:
        return warn(text, todo)
    return ok(text)


def _check_spool(folder: Path) -> Iterator[DoctorFinding]:
    """Yield that opens and clicks wait in the spool, where a gateway of this machine has one."""
    sizes = [path.stat().st_size for path in folder.glob("*.events")] if folder.is_dir() else []
    if sum(sizes):
        yield warn(
            f"{sum(sizes)} bytes of opens and clicks wait in the spool for Kafka",
            "a gateway writes them to Kafka once it answers: is one running with this data folder?",
        )
    elif sizes or folder.is_dir():
        yield ok("the spool of opens and clicks is empty")


def certificate_finding(variable: str, path: Path) -> DoctorFinding:
    """Return until when the first certificate of a PEM file is valid."""
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError, IndexError) as error:
        return fail(f"{variable}: {path} can't be read: {error}", "name a PEM file that this user may read")
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    text = f"{variable}: the certificate ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if left < dt.timedelta(0):
        return fail(text, "renew it")
    return warn(text, "renew it") if left < dt.timedelta(days=CERTIFICATE_WARN_DAYS) else ok(text)


def public_url_finding(url: str) -> DoctorFinding:
    """Return whether recipients and providers can use the public URL, as far as it says so itself."""
    parts = urlsplit(url)
    if _is_local(parts.hostname or ""):
        return skip(f"MAILFOLD_PUBLIC_URL is {url}: only this machine and its network reach it")
    if parts.scheme != "https":
        return warn(
            f"MAILFOLD_PUBLIC_URL is {url}: links and webhooks can be read on the way", "put TLS before the gateway"
        )
    return ok(f"MAILFOLD_PUBLIC_URL is {url}")


def domain_finding(domain: str) -> DoctorFinding:
    """Return how to check the mail domain's DNS: a client for DNS is no dependency of Mailfold's."""
    if _is_local(domain):
        return skip(f"MAILFOLD_MAIL_DOMAIN is {domain}, which only this machine knows: no DNS to check")
    return skip(
        f"DNS of {domain} is not checked: Mailfold has no DNS client",
        f"look yourself: `dig +short MX {domain}`, `dig +short TXT {domain}` (SPF), "
        f"`dig +short TXT _dmarc.{domain}` (DMARC), and the DKIM records that `mailfold brands` shows",
    )


def _is_local(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host.rpartition(".")[2] in LOCAL_DOMAINS
