"""Build webhooks as each kind of provider posts them, signed with a key that the test made."""

import base64
import secrets
import time
from collections.abc import Callable

from pipeline.operations.checks.webhook_signing import SIGNERS, SignedRequest, SigningContext
from tests.support.webhooks import signed

Make = Callable[[bytes, str], SignedRequest]
"""A function from an event's JSON and the webhook's URL to the request with that event."""


class Key:
    """A webhook key: the text that the operator enters, and the function that signs requests with it."""

    def __init__(self, entered: str, make: Make) -> None:
        self.entered = entered
        self.make = make


def key(kind: str) -> Key:
    """Return a new key for a provider of this kind."""
    if kind in _ASYMMETRIC:
        return _asymmetric(kind, _ASYMMETRIC[kind])
    entered = _ENTERED[kind]() if kind in _ENTERED else secrets.token_hex()
    sign = SIGNERS[kind]
    return Key(
        entered, lambda event, url: sign(entered, SigningContext(url, int(time.time()), secrets.token_hex(25), event))
    )


def _user_and_password() -> str:
    return f"mailfold:{secrets.token_urlsafe()}"


def _asymmetric(kind: str, around: bytes) -> Key:
    name = secrets.token_hex()

    def make(event: bytes, url: str) -> SignedRequest:
        request = signed(kind, around % event, now_s=int(time.time()), url=url, name=name)
        return SignedRequest(request.headers, request.body)

    return Key(signed(kind, b"", now_s=0, name=name).key, make)


_ASYMMETRIC = {"sendgrid": b"[%s]", "postal": b"%s"}
"""The format of the body around an event, for kinds that sign with a private key."""
_ENTERED: dict[str, Callable[[], str]] = {
    "postmark": _user_and_password,
    "sparkpost": _user_and_password,
    "mailjet": _user_and_password,
    "brevo": _user_and_password,
    "resend": lambda: "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
}
KINDS = (*SIGNERS, *_ASYMMETRIC)
"""All kinds but SES, which needs a server for its certificate (`tests.support.sns`)."""
