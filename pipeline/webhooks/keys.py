"""Parse webhook keys as an operator entered them.

The adapters verify with these functions, and `mailfold providers add` checks new keys with the same ones.
"""

import base64
import binascii
import functools
import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pipeline.errors import InvalidSignatureError

T = TypeVar("T")

_ARMOUR: Final = re.compile(r"-----(?:BEGIN|END) [A-Z ]+-----")


def readable_keys(read: Callable[[str], T], keys: Sequence[str]) -> list[T]:
    """Return the keys that ``read`` can parse; skip the others. Raise InvalidSignatureError if it can parse none."""
    parsed, last_error = [], None
    for key in keys:
        try:
            parsed.append(read(key))
        except InvalidSignatureError as error:
            last_error = error
    if last_error is not None and not parsed:
        raise last_error
    return parsed


@functools.lru_cache(maxsize=64)
def p256_key(entered: str) -> ec.EllipticCurvePublicKey:
    """Return a public key on the curve P-256 from PEM or the base64 of its DER. Raise InvalidSignatureError."""
    key = _public_key(entered)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidSignatureError("the webhook key is not a P-256 public key, base64 or PEM")
    return key


@functools.lru_cache(maxsize=64)
def rsa_key(entered: str) -> rsa.RSAPublicKey:
    """Return an RSA public key from PEM or the base64 of its DER. Raise InvalidSignatureError."""
    key = _public_key(entered)
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidSignatureError("the webhook key is not an RSA public key, base64 or PEM")
    return key


def svix_secret(entered: str) -> bytes:
    """Return the bytes of a Svix signing secret: base64, with or without `whsec_`. Raise InvalidSignatureError."""
    try:
        secret = base64.b64decode(entered.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:  # anybody could sign with an empty one
        raise InvalidSignatureError("the webhook key is not a signing secret, whsec_ and base64")
    return secret


def _public_key(entered: str) -> object:
    """Return the public key, or None if it is none.

    PEM is base64 of the DER between two lines; pasting may have joined these lines.
    """
    try:
        return load_der_public_key(base64.b64decode("".join(_ARMOUR.sub("", entered).split()), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None
