"""A provider's kind and a webhook key as somebody entered it in; what is wrong with it out, empty for nothing. Pure.

A key that can't be read would refuse every webhook until somebody notices, and the provider may give up before.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

_ARN: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")


def malformed(kind: str, key: str) -> str:
    """Why this can be no webhook key of a provider of this kind."""
    if not key.strip():
        return "it is empty"
    look = _LOOKS.get(kind)
    return look(key) if look is not None else ""


def _sendgrid(key: str) -> str:
    return "" if isinstance(_public(key), ec.EllipticCurvePublicKey) else "not a base64 public key as SendGrid shows it"


def _postal(key: str) -> str:
    return "" if isinstance(_public(key), rsa.RSAPublicKey) else "not an RSA public key, PEM or base64"


def _ses(key: str) -> str:
    return "" if _ARN.fullmatch(key) else "not the ARN of an SNS topic, arn:aws:sns:region:account:name"


def _resend(key: str) -> str:
    try:
        found = base64.b64decode(key.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        found = b""
    return "" if key.startswith("whsec_") and found else "not a signing secret, whsec_ and base64"


def _password(key: str) -> str:
    user, colon, password = key.partition(":")
    return "" if not colon or (user and password) else "user:password wants both"


def _basic(key: str) -> str:
    """Of those who send no token."""
    return _password(key) if ":" in key else "user:password is what it can bring"


def _public(key: str) -> object:
    try:
        if "-----BEGIN" in key:
            return load_pem_public_key(key.encode())
        return load_der_public_key(base64.b64decode("".join(key.split()), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None


_LOOKS: Final[Mapping[str, Callable[[str], str]]] = {
    "sandbox": _sendgrid,
    "sendgrid": _sendgrid,
    "postal": _postal,
    "ses": _ses,
    "resend": _resend,
    "postmark": _basic,
    "sparkpost": _password,
    "mailjet": _basic,
    "brevo": _password,
}
