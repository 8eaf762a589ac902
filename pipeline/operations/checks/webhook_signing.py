"""A provider's kind and webhook key in, a request signed as that provider signs its own out. Pure.

The opposite of the adapters' `verify`, where we hold what the provider signs with. SendGrid, SES and Postal sign with
keys of which we know the public half only: nobody here can speak for them.
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
"""No event at all; the gateway forgets it anyway (`pipeline.webhooks.self_check`)."""


@dataclass(frozen=True)
class SignedRequest:
    """A request that is the provider's as far as anybody can tell."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class SigningContext:
    """What goes into a signature beside the key."""

    url: str
    """As the provider knows it."""
    now_s: int
    nonce: str
    body: bytes = CHECK_BODY
    """JSON."""


RequestSigner = Callable[[str, SigningContext], SignedRequest]
"""Raises Forged for a key that can't be read."""


def _password(key: str, occasion: SigningContext) -> SignedRequest:
    """``user:password`` is HTTP Basic (RFC 7617), anything else a bearer token (RFC 6750)."""
    if ":" in key:
        return _json({"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}, occasion.body)
    return _json({"Authorization": f"Bearer {key}"}, occasion.body)


def _mailgun(key: str, occasion: SigningContext) -> SignedRequest:
    code = _hmac(key.encode(), f"{occasion.now_s}{occasion.nonce}".encode()).hex()
    signature = {"timestamp": str(occasion.now_s), "token": occasion.nonce, "signature": code}
    return _json({}, msgspec.json.encode({"signature": signature, "event-data": msgspec.Raw(occasion.body)}))


def _resend(key: str, occasion: SigningContext) -> SignedRequest:
    signed = f"{occasion.nonce}.{occasion.now_s}.".encode() + occasion.body
    code = base64.b64encode(_hmac(svix_secret(key), signed)).decode()
    headers = {"svix-id": occasion.nonce, "svix-timestamp": str(occasion.now_s), "svix-signature": f"v1,{code}"}
    return _json(headers, occasion.body)


def _mandrill(key: str, occasion: SigningContext) -> SignedRequest:
    name, value = "mandrill_events", f"[{occasion.body.decode()}]"
    code = hmac.digest(key.encode(), f"{occasion.url}{name}{value}".encode(), hashlib.sha1)
    headers = {
        "X-Mandrill-Signature": base64.b64encode(code).decode(),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return SignedRequest(headers, urllib.parse.urlencode({name: value}).encode())


def _of_body(header: str) -> RequestSigner:
    """Hexadecimal HMAC-SHA256 of the body."""
    return lambda key, occasion: _json({header: _hmac(key.encode(), occasion.body).hex()}, occasion.body)


SIGNERS: Final[Mapping[str, RequestSigner]] = {
    "mailgun": _mailgun,
    "postmark": _password,
    "sparkpost": _password,
    "mailjet": _password,
    "brevo": _password,
    "resend": _resend,
    "mandrill": _mandrill,
    "mailersend": _of_body("Signature"),
    "mailtrap": _of_body("Mailtrap-Signature"),
}
"""Kinds of providers whose webhooks we could sign ourselves."""
UNSIGNED_REQUEST: Final = SignedRequest({"Content-Type": "application/json"}, CHECK_BODY)


def _json(headers: Mapping[str, str], body: bytes) -> SignedRequest:
    return SignedRequest({"Content-Type": "application/json", **headers}, body)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)
