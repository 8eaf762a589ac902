"""Find out why a Kafka client could not start, and say which setting to change; `clients` calls it.

aiokafka logs the cause and raises "unable to bootstrap". So the brokers are asked once more, over a connection that
raises its own errors.
"""

import asyncio
import ssl
from collections.abc import Iterator
from typing import Final

import msgspec
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from pipeline.runtime.kafka.security import TokenUnavailable, security_options
from pipeline.settings import Settings

DIAGNOSIS_TIMEOUT_S: Final = 5.0
"""Seconds that the search may take; a broker that does not answer at all needs no further explanation."""
RIGHTS_HINT: Final = "`mailfold topics acls` prints the rights that each role needs"
_UNAUTHORIZED: Final = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
_WRONG_NAME_CODES: Final = (62, 63, 64)
"""OpenSSL's codes for a certificate of another host name, email address or IP address."""
_EXPIRED_CODE: Final = 10
_NO_TLS_REASONS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")


class FailureReason(msgspec.Struct, frozen=True):
    """Why a client could not start."""

    text: str
    is_refusal: bool = False
    """Whether brokers answered and refused the client, or it them, so that waiting does not help."""


async def explain_failure(settings: Settings, error: BaseException) -> FailureReason | None:
    """Return the cause of a client's error; None where nothing more than the error is known."""
    if reason := _reason(error, "Kafka", settings):
        return reason
    try:
        async with asyncio.timeout(DIAGNOSIS_TIMEOUT_S):
            return await _ask_brokers(settings)
    except TimeoutError:
        return None


async def _ask_brokers(settings: Settings) -> FailureReason | None:
    """Connect to each broker in turn, first those of KAFKA_BOOTSTRAP, until one gives a reason."""
    waiting = [(host, port) for host, port, _ in collect_hosts(settings.kafka_bootstrap, randomize=False)]
    asked: set[tuple[str, int]] = set()
    while waiting:
        host, port = waiting.pop(0)
        if (host, port) in asked:
            continue
        asked.add((host, port))
        try:
            waiting += await _advertised_brokers(host, port, settings)
        except Exception as error:  # whatever it is, the client's own error is reported, too
            if reason := _reason(error, f"{host}:{port}", settings):
                return reason
    return None


async def _advertised_brokers(host: str, port: int, settings: Settings) -> list[tuple[str, int]]:
    """Return the addresses that a broker tells clients to use. Raise what stops a client there."""
    timeout_ms = int(DIAGNOSIS_TIMEOUT_S * 1000)
    connection = await create_conn(host, port, request_timeout_ms=timeout_ms, **security_options(settings))
    try:
        metadata = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    return [(broker[1], broker[2]) for broker in metadata.brokers]


def _reason(error: BaseException, broker: str, settings: Settings) -> FailureReason | None:
    """Return what an error says about the settings; None where it says nothing."""
    for cause in _causes(error):
        if text := _refusal(cause, broker, settings):
            return FailureReason(text, is_refusal=True)
        if text := _doubt(cause, broker, settings):
            return FailureReason(text)
    return None


def _refusal(error: BaseException, broker: str, settings: Settings) -> str:
    """Return what only another setting, certificate or right can change."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_reason(error, broker)
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return _alert_reason(error, broker, settings)
    if isinstance(error, _UNAUTHORIZED):
        return f"the user has no right to this: {error}; {RIGHTS_HINT}"
    if isinstance(error, ValueError) and "Server" in str(error):  # aiokafka, of SCRAM's signature and nonce
        return f"{broker} does not know the password itself; is KAFKA_BOOTSTRAP the right cluster?"
    return _login_reason(error, broker, settings)


def _doubt(error: BaseException, broker: str, settings: Settings) -> str:
    """Return what may be wrong settings, or an outage of a broker, of a proxy before it or of the token server."""
    if isinstance(error, TokenUnavailable):
        return str(error.args[0])
    if isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", "") in _NO_TLS_REASONS:
        return f"{broker} does not talk TLS; {_protocol_question(settings)}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {broker} failed ({_words(error)})"
    if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
        return f"{broker} closed the connection; {_protocol_question(settings)}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _alert_reason(error: ssl.SSLError, broker: str, settings: Settings) -> str:
    if settings.kafka_ssl_certificate_file:
        return f"{broker} refused the certificate in KAFKA_SSL_CERTIFICATE_FILE ({_words(error)})"
    return (
        f"{broker} refused the TLS connection ({_words(error)}); if it asks for a client certificate, set "
        "KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE"
    )


def _certificate_reason(error: ssl.SSLCertVerificationError, broker: str) -> str:
    if error.verify_code in _WRONG_NAME_CODES:
        return (
            f"the certificate of {broker} is for another name ({error.verify_message}); KAFKA_BOOTSTRAP and the "
            "brokers' advertised.listeners must use the names in the certificates"
        )
    if error.verify_code == _EXPIRED_CODE:
        return f"the certificate of {broker} has expired"
    return (
        f"the certificate of {broker} is not trusted ({error.verify_message}); KAFKA_SSL_CA_FILE must name the CA "
        "that signed it"
    )


def _login_reason(error: BaseException, broker: str, settings: Settings) -> str:
    mechanism = settings.kafka_sasl_mechanism
    if isinstance(error, SaslAuthenticationFailed) and mechanism == "OAUTHBEARER":
        return f"{broker} refused the token from KAFKA_OAUTH_TOKEN_URL"
    if isinstance(error, SaslAuthenticationFailed):
        return f"{broker} refused the login by {mechanism}; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"{broker} does not offer KAFKA_SASL_MECHANISM={mechanism} on this listener"
    if isinstance(error, IllegalSaslStateError):
        return f"{broker} expects no login; {_protocol_question(settings)}"
    return ""


def _protocol_question(settings: Settings) -> str:
    return f"does its listener expect KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}?"


def _words(error: ssl.SSLError) -> str:
    """Return OpenSSL's name of an error as words."""
    return (error.reason or "").lower().replace("_", " ") or str(error)
