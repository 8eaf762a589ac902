"""Check the certificates of the Postgres servers and poolers in the three database URLs, and of their clients."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict

from pipeline.operations.doctor.certificates import (
    NoTlsOffered,
    authorities_finding,
    chain_finding,
    end_finding,
    read_postgres_certificate,
)
from pipeline.operations.doctor.finding import DoctorFinding, warn
from pipeline.runtime.postgres.conninfo import pooled_conninfo, session_conninfo, standby_conninfo
from pipeline.settings import Settings

DEFAULT_PORT: Final = "5432"
_URLS: Final = {
    "DATABASE_URL": pooled_conninfo,
    "DATABASE_SESSION_URL": session_conninfo,
    "DATABASE_READ_URL": standby_conninfo,
}


async def find_certificates(settings: Settings) -> list[DoctorFinding]:
    """Return the findings about certificates. Raise InvalidSettings for a URL that is none."""
    # Without a DATABASE_SESSION_URL its connection string is that of DATABASE_URL, whose name comes first.
    conninfos: dict[str, str] = {}
    for name, build in _URLS.items():
        if conninfo := build(settings):
            conninfos.setdefault(conninfo, name)
    parameters = {name: conninfo_to_dict(conninfo) for conninfo, name in conninfos.items()}
    servers = {place: name for name, values in parameters.items() for place in _servers_of(values)}
    found = await asyncio.gather(*(_check_server(name, *place) for place, name in servers.items()))
    return [finding for finding in found if finding is not None] + list(_check_files(parameters))


def _servers_of(parameters: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield host and port of each server with which TLS may be spoken; a socket's folder is no such host."""
    if parameters.get("sslmode") == "disable":
        return
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", DEFAULT_PORT)).split(",")
    for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False):
        if host and not host.startswith(("/", "@")):
            yield host, int(port or DEFAULT_PORT)


async def _check_server(name: str, host: str, port: int) -> DoctorFinding | None:
    """Return until when a server's certificate is valid, or that it does not answer; None where it has none."""
    try:
        certificate = await read_postgres_certificate(host, port)
    except NoTlsOffered:
        return None
    except (OSError, TimeoutError) as error:
        return warn(f"{host}:{port} of {name} can't be reached: {str(error) or 'no answer'}", "is that server up?")
    return end_finding(f"{host}:{port} of {name}", certificate.not_valid_after_utc)


def _check_files(parameters: dict[str, dict[str, Any]]) -> Iterator[DoctorFinding]:
    for name, values in parameters.items():
        if path := values.get("sslcert"):
            yield chain_finding(f"sslcert of {name}", Path(path))
        if (path := values.get("sslrootcert")) and path != "system":
            yield authorities_finding(f"sslrootcert of {name}", Path(path))
