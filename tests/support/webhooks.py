"""A webhook's body in, the request that its provider would make out, signed as the provider signs; and our key for it.

Made from the providers' documentation, without our adapters: what both misread alike, the published signatures in the
adapters' own tests would show. SNS, which needs a certificate from somewhere, is in `tests/support/sns.py`.
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
    """What the provider's row needs to believe it."""


class Wish(NamedTuple):
    """What is to be signed."""

    body: bytes
    url: str
    now_s: int
    name: str
    """Which of many: another name, another key."""


Signer = Callable[[Wish], Signed]
_JSON: Final = {"Content-Type": "application/json"}


def signed(kind: str, body: bytes, *, now_s: int, url: str = "", name: str = "first") -> Signed:
    """The request that a provider of this kind makes to ``url`` at ``now_s``."""
    return SIGNERS[kind](Wish(body, url, now_s, name))


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


def _sendgrid(wish: Wish) -> Signed:
    key, at = _curve(wish.name), str(wish.now_s)
    headers = {
        "X-Twilio-Email-Event-Webhook-Signature": _base64(key.sign(at.encode() + wish.body, ec.ECDSA(SHA256()))),
        "X-Twilio-Email-Event-Webhook-Timestamp": at,
    }
    return Signed(wish.body, _JSON | headers, _der(key.public_key()))


def _mailgun(wish: Wish) -> Signed:
    """The signature lies in the body, beside the event; every request has a token of its own."""
    key, at, token = _secret(wish.name), str(wish.now_s), secrets.token_hex(25)
    signature = hmac.new(key.encode(), f"{at}{token}".encode(), hashlib.sha256).hexdigest()
    whole = json.loads(wish.body) | {"signature": {"timestamp": at, "token": token, "signature": signature}}
    return Signed(json.dumps(whole).encode(), _JSON, key)


def _basic(wish: Wish) -> Signed:
    key = f"{wish.name}:{_secret(wish.name)}"
    return Signed(wish.body, _JSON | {"Authorization": f"Basic {_base64(key.encode())}"}, key)


def _bearer(wish: Wish) -> Signed:
    key = _secret(wish.name)
    return Signed(wish.body, _JSON | {"Authorization": f"Bearer {key}"}, key)


def _resend(wish: Wish) -> Signed:
    """https://docs.svix.com/receiving/verifying-payloads/how-manual"""
    key, at = hashlib.sha256(wish.name.encode()).digest()[:24], str(wish.now_s)
    event = f"msg_{hashlib.sha256(wish.body).hexdigest()[:27]}"
    signature = _base64(hmac.new(key, f"{event}.{at}.".encode() + wish.body, hashlib.sha256).digest())
    headers = {"svix-id": event, "svix-timestamp": at, "svix-signature": f"v1,{signature}"}
    return Signed(wish.body, _JSON | headers, f"whsec_{_base64(key)}")


def _mandrill(wish: Wish) -> Signed:
    """https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/"""
    parameters = urllib.parse.parse_qs(wish.body.decode(), keep_blank_values=True)
    text = wish.url + "".join(name + parameters[name][0] for name in sorted(parameters))
    key = _secret(wish.name)
    signature = _base64(hmac.new(key.encode(), text.encode(), hashlib.sha1).digest())
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return Signed(wish.body, form | {"X-Mandrill-Signature": signature}, key)


def signed_hex(key: str, body: bytes) -> str:
    """As many do it."""
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def _hex(header: str) -> Signer:
    def signer(wish: Wish) -> Signed:
        key = _secret(wish.name)
        return Signed(wish.body, _JSON | {header: signed_hex(key, wish.body)}, key)

    return signer


def _postal(wish: Wish) -> Signed:
    key = _rsa(wish.name)
    headers = {
        "X-Postal-Signature": _base64(key.sign(wish.body, padding.PKCS1v15(), SHA1())),
        "X-Postal-Signature-256": _base64(key.sign(wish.body, padding.PKCS1v15(), SHA256())),
        "X-Postal-Signature-KID": hashlib.sha256(wish.name.encode()).hexdigest(),
    }
    return Signed(wish.body, _JSON | headers, _der(key.public_key()))


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
"""Those who prove who they are, and nothing about what they say."""
TIMED: Final = {"sendgrid", "mailgun", "resend"}
"""Those who sign when they signed."""
