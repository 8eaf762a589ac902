"""Transport security of every Kafka client, from KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_*, KAFKA_OAUTH_* and KAFKA_SSL_*.

`clients` passes it to aiokafka, and the worker to Faust. The broker's host name is always verified.
"""

import functools
import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import get_ip_port_afi
from aiokafka.errors import KafkaError
from pydantic import SecretStr

from pipeline.errors import InvalidSettings
from pipeline.runtime.environment import environment_variable
from pipeline.runtime.observing.logs import get_logger
from pipeline.settings import Settings

_LOGIN_FIELDS: Final = ("kafka_sasl_username", "kafka_sasl_password")
_OAUTH_FIELDS: Final = ("kafka_oauth_token_url", "kafka_oauth_client_id", "kafka_oauth_client_secret")
_SASL_FIELDS: Final = ("kafka_sasl_mechanism", *_LOGIN_FIELDS, *_OAUTH_FIELDS, "kafka_oauth_scope")
_CLIENT_CERTIFICATE_FIELDS: Final = ("kafka_ssl_key_file", "kafka_ssl_key_password")
_SSL_FIELDS: Final = ("kafka_ssl_ca_file", "kafka_ssl_certificate_file", *_CLIENT_CERTIFICATE_FIELDS)
_log = get_logger("mailfold.kafka")


class TokenUnavailable(KafkaError):  # type: ignore[misc]  # aiokafka ships no types, and retries after its own errors only
    """The token endpoint gave no token."""


def security_options(settings: Settings) -> dict[str, Any]:
    """Return the options of an aiokafka client that have to do with security. Raise InvalidSettings."""
    check_security(settings)
    options: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    if _is_encrypted(settings):
        options["ssl_context"] = _ssl_context(
            TlsFiles(
                settings.kafka_ssl_ca_file,
                settings.kafka_ssl_certificate_file,
                settings.kafka_ssl_key_file,
                settings.kafka_ssl_key_password,
            )
        )
    if _has_login(settings):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options |= _login_options(settings)
    return options


def check_security(settings: Settings) -> None:
    """Raise InvalidSettings, a line for each setting that is wrong in itself or beside others; files are not opened."""
    checks = (_address_problems, _protocol_problems, _login_problems, _certificate_problems)
    if problems := [problem for check in checks for problem in check(settings)]:
        raise InvalidSettings("\n".join(problems))


def _is_encrypted(settings: Settings) -> bool:
    return settings.kafka_security_protocol in ("SSL", "SASL_SSL")


def _has_login(settings: Settings) -> bool:
    return settings.kafka_security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")


def _address_problems(settings: Settings) -> Iterator[str]:
    for address in settings.kafka_bootstrap.split(","):
        if "://" in address:
            yield f"KAFKA_BOOTSTRAP: {address.strip()}: leave the protocol out; KAFKA_SECURITY_PROTOCOL says it"
            continue
        try:
            _, port, _ = get_ip_port_afi(address)
        except ValueError:
            port = 0
        if not 0 < port < 65_536:
            yield f"KAFKA_BOOTSTRAP: {address.strip()}: not host:port"


def _protocol_problems(settings: Settings) -> Iterator[str]:
    protocol = settings.kafka_security_protocol
    if not _has_login(settings):
        for name in _given(settings, _SASL_FIELDS):
            yield f"{name}: set, but KAFKA_SECURITY_PROTOCOL={protocol} has no login; set SASL_SSL, or remove it"
    if not _is_encrypted(settings):
        for name in _given(settings, _SSL_FIELDS):
            yield f"{name}: set, but KAFKA_SECURITY_PROTOCOL={protocol} has no TLS; set SSL or SASL_SSL, or remove it"


def _login_problems(settings: Settings) -> Iterator[str]:
    if not _has_login(settings):
        return
    mechanism = settings.kafka_sasl_mechanism
    if not mechanism:
        yield (
            f"KAFKA_SASL_MECHANISM: missing; KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs PLAIN, "
            "SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
        )
        return
    is_oauth = mechanism == "OAUTHBEARER"
    needed, unused = (_OAUTH_FIELDS, _LOGIN_FIELDS) if is_oauth else (_LOGIN_FIELDS, _OAUTH_FIELDS)
    given = set(_given(settings, needed))
    for name in (environment_variable(field) for field in needed):
        if name not in given:
            yield f"{name}: missing; KAFKA_SASL_MECHANISM={mechanism} needs it"
    for name in _given(settings, unused):
        yield f"{name}: set, but KAFKA_SASL_MECHANISM={mechanism} does not use it; remove it"
    if is_oauth and settings.kafka_oauth_token_url and not _is_confidential(settings.kafka_oauth_token_url):
        yield "KAFKA_OAUTH_TOKEN_URL: must begin with https://, because the client secret is sent to it"


def _certificate_problems(settings: Settings) -> Iterator[str]:
    if _is_encrypted(settings) and not settings.kafka_ssl_certificate_file:
        for name in _given(settings, _CLIENT_CERTIFICATE_FIELDS):
            yield f"{name}: set without KAFKA_SSL_CERTIFICATE_FILE"


def _given(settings: Settings, fields: tuple[str, ...]) -> Iterator[str]:
    """Yield the environment variables of the fields that are not empty."""
    for field in fields:
        value = getattr(settings, field)
        if value.get_secret_value() if isinstance(value, SecretStr) else value:
            yield environment_variable(field)


def _is_confidential(url: str) -> bool:
    """Return whether what is sent to this URL stays secret: by TLS, or because it does not leave the machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https" and host:
        return True
    try:
        return parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _login_options(settings: Settings) -> dict[str, Any]:
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        provider = _token_provider(
            settings.kafka_oauth_token_url,
            settings.kafka_oauth_client_id,
            settings.kafka_oauth_client_secret,
            settings.kafka_oauth_scope,
        )
        return {"sasl_oauth_token_provider": provider}
    return {
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
    }


@functools.lru_cache(maxsize=4)
def _token_provider(url: str, client_id: str, client_secret: SecretStr, scope: str) -> AbstractTokenProvider:
    """Return the provider that all clients of this process share."""
    from pipeline.runtime.kafka.oauth import OAuthTokenProvider  # noqa: PLC0415  it imports aiohttp: 0.1 s and 10 MB

    return OAuthTokenProvider(url, client_id, client_secret, scope)


@dataclass(frozen=True)
class TlsFiles:
    """The paths of PEM files, empty where not set, and the password of the key."""

    ca: str
    certificate: str
    key: str
    key_password: SecretStr

    def versions(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when one of the files is replaced. Raise OSError."""
        stats = [os.stat(path) for path in (self.ca, self.certificate, self.key) if path]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)


@functools.lru_cache(maxsize=4)
def _ssl_context(files: TlsFiles) -> "RenewedSslContext":
    """Return the context that all clients of this process share; loading the system's CAs takes 20 ms."""
    return RenewedSslContext(files)


class RenewedSslContext(ssl.SSLContext):
    """A TLS client context that loads its files again once they are replaced, as renewed certificates are.

    Each new connection gets the newest certificates; a role that runs for years needs no restart.
    """

    def __new__(cls, files: TlsFiles) -> "RenewedSslContext":
        """Return a context that verifies certificates and host names, as the one that it delegates to does."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, files: TlsFiles) -> None:
        super().__init__()
        self._files = files
        self._current = _load(files)
        self._versions = files.versions()

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Return the TLS side of a new connection, as asyncio and uvloop ask for it."""
        self._renew()
        return self._current.wrap_bio(*args, **options)

    def _renew(self) -> None:
        """Load the files again if they changed; keep the old ones while the new ones can't be loaded."""
        try:
            versions = self._files.versions()
            if versions == self._versions:
                return
            self._current, self._versions = _load(self._files), versions
        except (InvalidSettings, OSError) as error:
            _log.warning("TLS files not loaded again, using the old ones", error=str(error))


def _load(files: TlsFiles) -> ssl.SSLContext:
    """Return a context with these files. Raise InvalidSettings, which names the setting of the file that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if files.ca:
        _read("KAFKA_SSL_CA_FILE", files.ca, lambda: context.load_verify_locations(files.ca))
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if files.certificate:
        if files.key:
            _read("KAFKA_SSL_KEY_FILE", files.key, lambda: None)
        # Without a password, OpenSSL would ask for one on the terminal and wait.
        password = files.key_password.get_secret_value()
        _read(
            "KAFKA_SSL_CERTIFICATE_FILE",
            files.certificate,
            lambda: context.load_cert_chain(files.certificate, files.key or None, password),
        )
    return context


def _read(variable: str, path: str, load: Callable[[], None]) -> None:
    """Check that a file can be read, then load it. Raise InvalidSettings."""
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise InvalidSettings(f"{variable}={path}: {error.strerror}") from error
    try:
        load()
    except ssl.SSLError as error:
        raise InvalidSettings(f"{variable}={path}: {_problem_of(variable, error)}") from error
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{variable}={path}: {error}") from error


def _problem_of(variable: str, error: ssl.SSLError) -> str:
    if variable == "KAFKA_SSL_CA_FILE":
        return "no certificate in PEM format"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "KAFKA_SSL_KEY_FILE holds the key of another certificate"
    return (
        "no certificate with its key in PEM format, or KAFKA_SSL_KEY_PASSWORD is wrong"
        f" ({(error.reason or 'unreadable').lower().replace('_', ' ')})"
    )
