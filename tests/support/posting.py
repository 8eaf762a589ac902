"""Webhooks as each kind of provider posts them, signed with a key that a test holds."""

import base64
import secrets
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from pipeline.checks.signing import SIGN, Occasion, Signed

Make = Callable[[bytes, str], Signed]
"""An event's JSON and the webhook's URL -> the request that brings it."""


class Key:
    """One webhook key: what the operator enters, and who signs with its other half."""

    def __init__(self, entered: str, make: Make) -> None:
        self.entered = entered
        self.make = make


def key(kind: str) -> Key:
    """A new one."""
    if kind in _ASYMMETRIC:
        return _ASYMMETRIC[kind]()
    entered = _ENTERED[kind]() if kind in _ENTERED else secrets.token_hex()
    sign = SIGN[kind]
    return Key(entered, lambda event, url: sign(entered, Occasion(url, int(time.time()), secrets.token_hex(25), event)))


def _user_and_password() -> str:
    return f"mailfold:{secrets.token_urlsafe()}"


def _sendgrid() -> Key:
    private = ec.generate_private_key(ec.SECP256R1())

    def make(event: bytes, _: str) -> Signed:
        body, timestamp = b"[%s]" % event, str(int(time.time()))
        headers = {
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(
                private.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
            ).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        }
        return Signed(headers, body)

    return Key(_public(private), make)


def _postal() -> Key:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def make(event: bytes, _: str) -> Signed:
        signature = private.sign(event, padding.PKCS1v15(), hashes.SHA256())
        return Signed({"X-Postal-Signature-256": base64.b64encode(signature).decode()}, event)

    return Key(_public(private), make)


def _public(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(private.public_key().public_bytes(serialization.Encoding.DER, form)).decode()


_ASYMMETRIC = {"sendgrid": _sendgrid, "postal": _postal}
_ENTERED: dict[str, Callable[[], str]] = {
    "postmark": _user_and_password,
    "sparkpost": _user_and_password,
    "mailjet": _user_and_password,
    "brevo": _user_and_password,
    "resend": lambda: "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
}
KINDS = (*SIGN, *_ASYMMETRIC)
"""All but SES, whose certificate takes a server (`tests.support.sns`)."""
