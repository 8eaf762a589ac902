"""Keyed hashes and seals, one subkey per purpose, all from the one secret.

Purposes never share a key: a token made for a pixel can't pass as a cursor.
"""

import base64
import hashlib
import hmac
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from pipeline.errors import BadSettings

TAG_BYTES: Final = 16
"""128 bits: nobody guesses it, and it keeps links short."""


class Signer:
    """HMAC-SHA256 under a subkey (RFC 5869's expand step, one block) for one purpose."""

    def __init__(self, secret: str, purpose: str) -> None:
        self._key = hmac.digest(secret.encode(), purpose.encode() + b"\x01", hashlib.sha256)

    def tag(self, message: bytes) -> bytes:
        """The 16-byte tag of a message."""
        return hmac.digest(self._key, message, hashlib.sha256)[:TAG_BYTES]

    def digest(self, message: bytes) -> bytes:
        """The whole 32-byte keyed hash: for what is looked up, not verified."""
        return hmac.digest(self._key, message, hashlib.sha256)

    def verify(self, message: bytes, tag: bytes) -> bool:
        """Whether the tag is ours, in constant time."""
        return hmac.compare_digest(self.tag(message), tag)


def signers(secret: str, previous: str, purpose: str) -> tuple[Signer, ...]:
    """Return the signers whose tags count: the present secret's, which signs, and the previous one's."""
    return tuple(Signer(one, purpose) for one in (secret, previous) if one)


def hash_address(signer: Signer, address: str) -> bytes:
    """The keyed hash under which an address is suppressed.

    The domain has no case (RFC 5321 §2.4); the local part in practice has none either, and a
    suppression that misses `Anna@` after `anna@` bounced would be worse than the exception.
    """
    return signer.digest(address.strip().casefold().encode("utf-8", "surrogatepass"))


def seal(secret: str, plain: str) -> bytes:
    """Encrypt a credential for storage (Fernet: AES-128-CBC + HMAC)."""
    return _fernet(secret).encrypt(plain.encode())


def unseal(secret: str, sealed: bytes) -> str:
    """The credential. Raises BadSettings where it was sealed under another secret."""
    try:
        return _fernet(secret).decrypt(sealed).decode()
    except InvalidToken:
        raise BadSettings("MAILFOLD_SECRET: a stored credential was sealed under another secret") from None


def _fernet(secret: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hmac.digest(secret.encode(), b"seal\x01", hashlib.sha256)))
