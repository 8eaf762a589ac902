"""A webhook key as somebody entered it in; what verifies a webhook out, or Forged. Pure.

The one reading: what `mailfold providers add` takes is what the adapters verify with.
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
    """Those that can be read: a broken one keeps none beside it from counting. Raises Forged where all are broken."""
    found, broken = [], None
    for key in keys:
        try:
            found.append(read(key))
        except InvalidSignatureError as error:
            broken = error
    if broken is not None and not found:
        raise broken
    return found


@functools.lru_cache(maxsize=64)
def p256_key(entered: str) -> ec.EllipticCurvePublicKey:
    """A public key on the curve P-256, base64 of its DER or PEM. Raises Forged."""
    key = _public(entered)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidSignatureError("the webhook key is not a P-256 public key, base64 or PEM")
    return key


@functools.lru_cache(maxsize=64)
def rsa_key(entered: str) -> rsa.RSAPublicKey:
    """An RSA public key, base64 of its DER or PEM. Raises Forged."""
    key = _public(entered)
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidSignatureError("the webhook key is not an RSA public key, base64 or PEM")
    return key


def svix_secret(entered: str) -> bytes:
    """A signing secret: `whsec_` (Svix's own libraries do without it, too) and base64. Raises Forged."""
    try:
        secret = base64.b64decode(entered.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:  # anybody could sign with it
        raise InvalidSignatureError("the webhook key is not a signing secret, whsec_ and base64")
    return secret


def _public(entered: str) -> object:
    """None for what is no public key. PEM is the same base64 between two lines, which pasting may have run together."""
    try:
        return load_der_public_key(base64.b64decode("".join(_ARMOUR.sub("", entered).split()), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None
