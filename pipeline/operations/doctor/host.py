"""Check this machine and its settings: the secret, the data folder's disk, the spool, certificates, the public URL."""

import ipaddress
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from pipeline.errors import InvalidSettings
from pipeline.operations.doctor.certificates import authorities_finding, chain_finding, key_pair_finding
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, skip, warn
from pipeline.runtime.secrets.secret_ring import NamedSecret, secret_ring
from pipeline.settings import Settings

MIN_SECRET_BITS: Final = 100
WARN_FREE_BYTES: Final = 5_000_000_000
FAIL_FREE_BYTES: Final = 1_000_000_000
WARN_FREE_SHARE: Final = 0.1
LOCAL_DOMAINS: Final = ("localhost", "test", "example", "invalid", "local")


async def check_host(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield the findings about this machine and the settings that this process has."""
    for finding in _check_secrets(settings):
        yield finding
    yield disk_finding(settings.data_dir)
    for finding in _check_spool(settings.data_dir / "spool"):
        yield finding
    for finding in _check_certificates(settings):
        yield finding
    yield public_url_finding(settings.public_url)


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


def _check_certificates(settings: Settings) -> Iterator[DoctorFinding]:
    """Yield until when the certificates in files are valid, of the gateway's SMTP and of Kafka's clients."""
    if path := settings.inbound_certificate:
        yield key_pair_finding("MAILFOLD_INBOUND_CERTIFICATE", path, settings.inbound_certificate_key)
    if path := settings.kafka_ssl_certificate_file:
        yield chain_finding("KAFKA_SSL_CERTIFICATE_FILE", Path(path))
    if path := settings.kafka_ssl_ca_file:
        yield authorities_finding("KAFKA_SSL_CA_FILE", Path(path))


def public_url_finding(url: str) -> DoctorFinding:
    """Return whether recipients and providers can use the public URL, as far as it says so itself."""
    parts = urlsplit(url)
    if is_local(parts.hostname or ""):
        return skip(f"MAILFOLD_PUBLIC_URL is {url}: only this machine and its network reach it")
    if parts.scheme != "https":
        return warn(
            f"MAILFOLD_PUBLIC_URL is {url}: links and webhooks can be read on the way", "put TLS before the gateway"
        )
    return ok(f"MAILFOLD_PUBLIC_URL is {url}")


def is_local(host: str) -> bool:
    """Return whether only this machine and its network know the host or domain."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host.rpartition(".")[2] in LOCAL_DOMAINS
