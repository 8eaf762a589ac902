"""Sign requests as providers sign their webhooks, for the check of our own URL and for tests.

The counterpart of the adapters' `verify`, for providers with whom we share the secret. SendGrid, SES and Postal sign
with private keys that only they have. Nothing here does I/O.
"""

import base64
import hashlib
import hmac
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pipeline.webhooks.keys import svix_secret

CHECK_BODY: Final = b'{"mailfold":"check"}'
"""A body without an event; the gateway discards it in any case (`pipeline.webhooks.self_check`)."""


@dataclass(frozen=True)
class SignedRequest:
    """A request with a valid signature of the provider."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class SigningContext:
    """The inputs of a signature except the key."""

    url: str
    """The URL that is configured at the provider."""
    now_s: int
    nonce: str
    body: bytes = CHECK_BODY
    """The body, JSON."""


RequestSigner = Callable[[str, SigningContext], SignedRequest]
"""A function that signs a request with a key; it raises InvalidSignatureError for one that cannot be parsed."""


def _sign_with_password(key: str, context: SigningContext) -> SignedRequest:
    """Send ``user:password`` as HTTP Basic (RFC 7617), and any other key as a bearer token (RFC 6750)."""
    if ":" in key:
        return _json({"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}, context.body)
    return _json({"Authorization": f"Bearer {key}"}, context.body)


def _sign_mailgun(key: str, context: SigningContext) -> SignedRequest:
    code = _hmac(key.encode(), f"{context.now_s}{context.nonce}".encode()).hex()
    signature = {"timestamp": str(context.now_s), "token": context.nonce, "signature": code}
    return _json({}, msgspec.json.encode({"signature": signature, "event-data": msgspec.Raw(context.body)}))


def _sign_resend(key: str, context: SigningContext) -> SignedRequest:
    signed = f"{context.nonce}.{context.now_s}.".encode() + context.body
    code = base64.b64encode(_hmac(svix_secret(key), signed)).decode()
    headers = {"svix-id": context.nonce, "svix-timestamp": str(context.now_s), "svix-signature": f"v1,{code}"}
    return _json(headers, context.body)


def _sign_mandrill(key: str, context: SigningContext) -> SignedRequest:
    name, value = "mandrill_events", f"[{context.body.decode()}]"
    code = hmac.digest(key.encode(), f"{context.url}{name}{value}".encode(), hashlib.sha1)
    headers = {
        "X-Mandrill-Signature": base64.b64encode(code).decode(),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return SignedRequest(headers, urllib.parse.urlencode({name: value}).encode())


def _body_signer(header: str) -> RequestSigner:
    """Return a signer that puts the body's HMAC-SHA256, hexadecimal, into this header."""
    return lambda key, context: _json({header: _hmac(key.encode(), context.body).hex()}, context.body)


SIGNERS: Final[Mapping[str, RequestSigner]] = {
    "mailgun": _sign_mailgun,
    "postmark": _sign_with_password,
    "sparkpost": _sign_with_password,
    "mailjet": _sign_with_password,
    "brevo": _sign_with_password,
    "resend": _sign_resend,
    "mandrill": _sign_mandrill,
    "mailersend": _body_signer("Signature"),
    "mailtrap": _body_signer("Mailtrap-Signature"),
}
"""The signers of providers with whom we share the secret, by kind."""
UNSIGNED_REQUEST: Final = SignedRequest({"Content-Type": "application/json"}, CHECK_BODY)


def _json(headers: Mapping[str, str], body: bytes) -> SignedRequest:
    return SignedRequest({"Content-Type": "application/json", **headers}, body)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)
