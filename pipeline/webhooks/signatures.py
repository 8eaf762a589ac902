"""Is a request its provider's? HMACs, passwords and freshness in, Forged out; compared in constant time."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Final

from pipeline.errors import AuthenticationFailed, InvalidSignatureError
from pipeline.webhooks.base import WebhookRequest

MAX_AHEAD_S: Final = 300
"""A signer's clock may be ahead by this much; more would stretch the time in which a request can be replayed."""


def required_header(incoming: WebhookRequest, name: str) -> str:
    """A header that must be there. Raises Forged."""
    value = incoming.headers.get(name.lower(), "")
    if not value:
        raise InvalidSignatureError(f"{name} is missing")
    return value


def hmac_sha256(keys: Iterable[str | bytes], message: bytes) -> list[bytes]:
    """The message's HMAC under each key."""
    return [hmac.digest(_bytes(key), message, hashlib.sha256) for key in keys]


def hmac_sha1(keys: Iterable[str | bytes], message: bytes) -> list[bytes]:
    """As Mandrill still does it."""
    return [hmac.digest(_bytes(key), message, hashlib.sha1) for key in keys]


def equal_to_any(given: bytes, wanted: Sequence[bytes]) -> bool:
    """Whether one of them is it; takes as long whichever it is. No key, no proof: False."""
    found = False
    for one in wanted:
        found |= hmac.compare_digest(given, one)
    return found


def from_hex(text: str) -> bytes:
    """Raises Forged."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidSignatureError("the signature is not hexadecimal") from None


def from_base64(text: str) -> bytes:
    """Raises Forged."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSignatureError("the signature is not base64") from None


def verify_signed_body(incoming: WebhookRequest, name: str, keys: Sequence[str]) -> None:
    """The body's HMAC-SHA256, hexadecimal, in the header of this name, by one of ``keys``. Raises Forged."""
    if not equal_to_any(from_hex(required_header(incoming, name)), hmac_sha256(keys, incoming.body)):
        raise InvalidSignatureError("the webhook's signature is not its provider's")


def verify_basic(incoming: WebhookRequest, keys: Sequence[str]) -> None:
    """HTTP Basic (RFC 7617); each key is ``user:password``. Raises NotLoggedIn."""
    scheme, _, given = incoming.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        raise AuthenticationFailed("no HTTP basic authorization")
    if not equal_to_any(from_base64(given.strip()), [_bytes(key) for key in keys]):
        raise AuthenticationFailed("the user or the password is not the provider's")


def verify_bearer(incoming: WebhookRequest, keys: Sequence[str]) -> None:
    """A bearer token (RFC 6750 §2.1), one of ``keys``. Raises NotLoggedIn."""
    scheme, _, given = incoming.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed("no bearer token")
    if not equal_to_any(_bytes(given.strip()), [_bytes(key) for key in keys]):
        raise AuthenticationFailed("the token is not the provider's")


def verify_password(incoming: WebhookRequest, keys: Sequence[str]) -> None:
    """HTTP Basic or a bearer token, whichever the request brings. Raises NotLoggedIn."""
    bears = incoming.headers.get("authorization", "").lower().startswith("bearer ")
    (verify_bearer if bears else verify_basic)(incoming, keys)


def verify_fresh(seconds: str, now_ms: int, max_age_s: int) -> None:
    """A Unix time as digits, not older than ``max_age_s`` and hardly ahead. Raises Forged."""
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 15):
        raise InvalidSignatureError("the signature's time is not a Unix time")
    age_ms = now_ms - int(seconds) * 1000
    if not -MAX_AHEAD_S * 1000 <= age_ms <= max_age_s * 1000:
        raise InvalidSignatureError(f"the signature is stale: {age_ms / 1000:.0f} s old")


def _bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
