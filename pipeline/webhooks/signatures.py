"""Verify HMACs, passwords, tokens and timestamps of webhook requests.

The ``verify`` of each adapter in :mod:`pipeline.webhooks.providers` calls it; `pipeline.gateway.webhook_verifier` calls
that.

Secrets are compared in constant time.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final

from pipeline.errors import AuthenticationFailed, InvalidSignatureError
from pipeline.webhooks.base import WebhookRequest

MAX_AHEAD_S: Final = 300
"""Seconds by which a signer's clock may be ahead; more would prolong the time in which a request can be replayed."""


def required_header(incoming: WebhookRequest, name: str) -> str:
    """Return the header's value. Raise InvalidSignatureError if it is missing."""
    value = incoming.headers.get(name.lower(), "")
    if not value:
        raise InvalidSignatureError(f"{name} is missing")
    return value


def hmac_sha256(keys: Iterable[str | bytes], message: bytes) -> list[bytes]:
    """Return the HMAC-SHA256 of the message with each key."""
    return [hmac.digest(_bytes(key), message, hashlib.sha256) for key in keys]


def hmac_sha1(keys: Iterable[str | bytes], message: bytes) -> list[bytes]:
    """Return the HMAC-SHA1 of the message with each key; Mandrill still signs with it."""
    return [hmac.digest(_bytes(key), message, hashlib.sha1) for key in keys]


def equal_to_any(value: bytes, candidates: Sequence[bytes]) -> bool:
    """Return whether ``value`` equals one of the candidates, in the same time for each of them."""
    is_equal = False
    for candidate in candidates:
        is_equal |= hmac.compare_digest(value, candidate)
    return is_equal


def from_hex(text: str) -> bytes:
    """Return the bytes of a hexadecimal signature. Raise InvalidSignatureError."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidSignatureError("the signature is not hexadecimal") from None


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 signature. Raise InvalidSignatureError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSignatureError("the signature is not base64") from None


def verify_signed_body(incoming: WebhookRequest, name: str, keys: Sequence[str]) -> None:
    """Raise InvalidSignatureError unless header ``name`` is the body's HMAC-SHA256, hexadecimal, by one of ``keys``."""
    if not equal_to_any(from_hex(required_header(incoming, name)), hmac_sha256(keys, incoming.body)):
        raise InvalidSignatureError("the webhook's signature is not its provider's")


def verify_basic(incoming: WebhookRequest, keys: Sequence[str]) -> None:
    """Raise AuthenticationFailed unless the HTTP Basic credentials (RFC 7617) are one of ``keys``, `user:password`."""
    scheme, _, credentials = incoming.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        raise AuthenticationFailed("no HTTP basic authorization")
    try:
        given = from_base64(credentials.strip())
    except InvalidSignatureError:
        raise AuthenticationFailed("the HTTP basic authorization is not base64") from None
    if not equal_to_any(given, [_bytes(key) for key in keys]):
        raise AuthenticationFailed("the user or the password is not the provider's")


def verify_bearer(incoming: WebhookRequest, keys: Sequence[str]) -> None:
    """Raise AuthenticationFailed unless the bearer token (RFC 6750 §2.1) is one of ``keys``."""
    scheme, _, token = incoming.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed("no bearer token")
    if not equal_to_any(_bytes(token.strip()), [_bytes(key) for key in keys]):
        raise AuthenticationFailed("the token is not the provider's")


def verify_password(incoming: WebhookRequest, keys: Sequence[str]) -> None:
    """Raise AuthenticationFailed unless the HTTP Basic credentials or the bearer token are one of ``keys``."""
    has_token = incoming.headers.get("authorization", "").lower().startswith("bearer ")
    (verify_bearer if has_token else verify_basic)(incoming, keys)


def verify_fresh(seconds: str, now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless the Unix time ``seconds``, in decimal digits, is fresh.

    It may be at most ``max_age_s`` old, and at most MAX_AHEAD_S ahead of ``now_ms``.
    """
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 15):
        raise InvalidSignatureError("the signature's time is not a Unix time")
    age_ms = now_ms - int(seconds) * 1000
    if not -MAX_AHEAD_S * 1000 <= age_ms <= max_age_s * 1000:
        raise InvalidSignatureError(f"the signature is stale: {age_ms / 1000:.0f} s old")


def _bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
