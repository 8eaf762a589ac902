"""Read certificates, from files and from servers, and judge until when they are valid."""

import asyncio
import contextlib
import datetime as dt
import ssl
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, warn

CERTIFICATE_WARN_DAYS: Final = 21
CONNECT_TIMEOUT_S: Final = 3.0
_SSL_REQUEST: Final = struct.pack("!II", 8, 80_877_103)
"""The message with which a client of Postgres asks for TLS; the server answers S or N."""


class NoTlsOffered(Exception):
    """The server answers, and knows no TLS."""


def chain_finding(name: str, path: Path) -> DoctorFinding:
    """Return until when a certificate and the others of its chain in a PEM file are valid."""
    certificates, problem = _load_file(name, path)
    return problem or end_finding(name, min(each.not_valid_after_utc for each in certificates))


def authorities_finding(name: str, path: Path) -> DoctorFinding:
    """Return until when any CA in a PEM file is valid: a bundle may keep old ones."""
    certificates, problem = _load_file(name, path)
    return problem or end_finding(name, max(each.not_valid_after_utc for each in certificates))


def key_pair_finding(name: str, certificate: str, key: str) -> DoctorFinding:
    """Return until when a server's certificate is valid, or that it can't be used with its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        return fail(f"{name}: {certificate} can't be used: {error}", "name the certificate chain and its key, as PEM")
    return chain_finding(name, Path(certificate))


def end_finding(name: str, end: dt.datetime) -> DoctorFinding:
    """Return whether a certificate is valid, and for long enough that somebody can renew it."""
    left = end - dt.datetime.now(dt.UTC)
    text = f"{name}: the certificate ends on {end:%Y-%m-%d}"
    if left < dt.timedelta(0):
        return fail(text, "renew it")
    return warn(text, "renew it") if left < dt.timedelta(days=CERTIFICATE_WARN_DAYS) else ok(text)


async def read_tls_certificate(host: str, port: int, context: ssl.SSLContext | None) -> x509.Certificate | None:
    """Connect, with TLS where a context is given, and return the server's certificate.

    Raise OSError, of which ssl.SSLError is one, and TimeoutError.
    """
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        return None if context is None else _peer_certificate(writer)
    finally:
        await _close(writer)


async def read_postgres_certificate(host: str, port: int) -> x509.Certificate:
    """Return the certificate that a Postgres server or a pooler shows. Raise NoTlsOffered, OSError, TimeoutError."""
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(_SSL_REQUEST)
            if await reader.read(1) != b"S":
                raise NoTlsOffered
            await writer.start_tls(_reading_context(), server_hostname=host)
            return _peer_certificate(writer)
        finally:
            await _close(writer)


def _reading_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate, because one is only read; libpq verifies as the URL says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _peer_certificate(writer: asyncio.StreamWriter) -> x509.Certificate:
    encoded = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(encoded)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await writer.wait_closed()


def _load_file(name: str, path: Path) -> tuple[Sequence[x509.Certificate], DoctorFinding | None]:
    """Return the certificates of a PEM file, or the finding that it has none."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes()), None
    except (OSError, ValueError) as error:
        return (), fail(f"{name}: {path} can't be read: {error}", "name a PEM file that this user may read")
