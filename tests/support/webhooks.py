"""Sign webhooks as each provider does, and return the request with the key that verifies it.

The signatures follow the providers' documentation and use none of our adapters' code; a mistake in both would fail the
adapters' own tests, which have published signatures. SNS, which needs a server for its certificate, is in
`tests/support/sns.py`.
"""

import base64
import functools
import hashlib
import hmac
import json
import secrets
import urllib.parse
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Signed(NamedTuple):
    """A request as it arrives."""

    body: bytes
    headers: dict[str, str]
    key: str
    """The webhook key with which the provider's row verifies it."""


class Unsigned(NamedTuple):
    """A request before it is signed."""

    body: bytes
    url: str
    now_s: int
    name: str
    """The name of the signing key; another name is another key."""


Signer = Callable[[Unsigned], Signed]
_JSON: Final = {"Content-Type": "application/json"}


def signed(kind: str, body: bytes, *, now_s: int, url: str = "", name: str = "first") -> Signed:
    """Return the request that a provider of this kind makes to ``url`` at ``now_s``, in seconds since the epoch."""
    return SIGNERS[kind](Unsigned(body, url, now_s, name))


def _secret(name: str) -> str:
    return hashlib.sha256(f"a secret of {name}".encode()).hexdigest()[:32]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@functools.cache
def _curve(_name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def _rsa(_name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _der(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    return _base64(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _sendgrid(request: Unsigned) -> Signed:
    key, at = _curve(request.name), str(request.now_s)
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": _base64(key.sign(at.encode() + request.body, ec.ECDSA(SHA256()))),
        "X-Twilio-Email-Event-Webhook-Timestamp": at,
    }
    return Signed(request.body, _JSON | headers, _der(key.public_key()))


def _mailgun(request: Unsigned) -> Signed:
    """Sign as Mailgun does, which puts the signature into the body, beside the event, with a new token each time."""
    key, at, token = _secret(request.name), str(request.now_s), secrets.token_hex(25)
    signature = hmac.new(key.encode(), f"{at}{token}".encode(), hashlib.sha256).hexdigest()
    signed_event = json.loads(request.body) | {"signature": {"timestamp": at, "token": token, "signature": signature}}
    return Signed(json.dumps(signed_event).encode(), _JSON, key)


def _basic(request: Unsigned) -> Signed:
    key = f"{request.name}:{_secret(request.name)}"
    return Signed(request.body, _JSON | {"Authorization": f"Basic {_base64(key.encode())}"}, key)


def _bearer(request: Unsigned) -> Signed:
    key = _secret(request.name)
    return Signed(request.body, _JSON | {"Authorization": f"Bearer {key}"}, key)


def _resend(request: Unsigned) -> Signed:
    """Sign as https://docs.svix.com/receiving/verifying-payloads/how-manual describes."""
    key, at = hashlib.sha256(request.name.encode()).digest()[:24], str(request.now_s)
    event = f"msg_{hashlib.sha256(request.body).hexdigest()[:27]}"
    signature = _base64(hmac.new(key, f"{event}.{at}.".encode() + request.body, hashlib.sha256).digest())
    headers = {"svix-id": event, "svix-timestamp": at, "svix-signature": f"v1,{signature}"}
    return Signed(request.body, _JSON | headers, f"whsec_{_base64(key)}")


def _mandrill(request: Unsigned) -> Signed:
    """Sign as https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/ describes."""
    parameters = urllib.parse.parse_qs(request.body.decode(), keep_blank_values=True)
    text = request.url + "".join(name + parameters[name][0] for name in sorted(parameters))
    key = _secret(request.name)
    signature = _base64(hmac.new(key.encode(), text.encode(), hashlib.sha1).digest())
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return Signed(request.body, form | {"X-Mandrill-Signature": signature}, key)


def signed_hex(key: str, body: bytes) -> str:
    """Return the body's HMAC-SHA256 in hexadecimal, as several providers send it."""
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def _hex(header: str) -> Signer:
    def signer(request: Unsigned) -> Signed:
        key = _secret(request.name)
        return Signed(request.body, _JSON | {header: signed_hex(key, request.body)}, key)

    return signer


def _postal(request: Unsigned) -> Signed:
    key = _rsa(request.name)
    headers = {
        "X-Postal-Signature": _base64(key.sign(request.body, padding.PKCS1v15(), SHA1())),
        "X-Postal-Signature-256": _base64(key.sign(request.body, padding.PKCS1v15(), SHA256())),
        "X-Postal-Signature-KID": hashlib.sha256(request.name.encode()).hexdigest(),
    }
    return Signed(request.body, _JSON | headers, _der(key.public_key()))


SIGNERS: Final[dict[str, Signer]] = {
    "sendgrid": _sendgrid,
    "mailgun": _mailgun,
    "postmark": _basic,
    "sparkpost": _basic,
    "mailjet": _basic,
    "brevo": _bearer,
    "resend": _resend,
    "mandrill": _mandrill,
    "mailersend": _hex("Signature"),
    "mailtrap": _hex("Mailtrap-Signature"),
    "postal": _postal,
}
PASSWORDS: Final = {"postmark", "sparkpost", "mailjet", "brevo"}
"""Kinds that send a password or token, and do not sign the body."""
TIMED: Final = {"sendgrid", "mailgun", "resend"}
"""Kinds whose signature covers the time of signing."""
