"""Keyed hashes and seals, one subkey per purpose, all from the one secret.

Purposes never share a key: a token made for a pixel can't pass as a cursor.
"""

import base64
import hashlib
import hmac
import unicodedata
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from pipeline.content.domains import InvalidDomain, to_ascii, to_unicode
from pipeline.errors import InvalidSettings, InvalidSignatureError
from projections.suppressing import OldAddressHash

TAG_BYTES: Final = 16
"""128 bits: nobody guesses it, and it keeps links short."""


MAX_ADDRESS_CHARS: Final = 2_000
"""Longer than any address: such a text is only lowered, never decomposed."""


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


def sign_token(signer: Signer, kind: bytes, payload: bytes) -> str:
    """Return a payload as a text for URLs, base64url with its tag before it; ``kind`` keeps one use from another's."""
    return base64.urlsafe_b64encode(signer.tag(kind + payload) + payload).decode().rstrip("=")


def verify_token(signer: Signer, kind: bytes, token: str, payload_bytes: int | None = None) -> bytes:
    """Return the payload of a token of this kind, of so many bytes where they are given. Raise Forged."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise InvalidSignatureError("the token is not base64url") from None
    tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
    if payload_bytes not in (None, len(payload)) or not signer.verify(kind + payload, tag):
        raise InvalidSignatureError("the token is not ours")
    return payload


def signers(secret: str, previous: str, purpose: str) -> tuple[Signer, ...]:
    """Return the signers whose tags count: the present secret's, which signs, and the previous one's."""
    return tuple(Signer(one, purpose) for one in (secret, previous) if one)


def hash_address(signer: Signer, address: str) -> bytes:
    """Return the keyed hash under which an address is suppressed.

    The domain has no case (RFC 5321 §2.4); the local part in practice has none either, and a
    suppression that misses `Anna@` after `anna@` bounced would be worse than the exception.
    """
    return signer.digest(_key(address).encode("utf-8", "surrogatepass"))


def old_hash_of(signer: Signer, address: str) -> OldAddressHash | None:
    """Return the hash under which earlier versions knew an address; None where it is the same.

    They took the domain as it was spelled, here: with U-labels, as most people do. They folded case as Unicode does:
    ß became ss, so that two domains had one key.
    """
    key = _key(address)
    local, at, domain = key.rpartition("@")
    folded = (local + at + to_unicode(domain)).casefold()
    if folded == key:
        return None
    shared = _key(folded) != key
    return OldAddressHash(signer.digest(folded.encode("utf-8", "surrogatepass")), shared=shared)


def _key(address: str) -> str:
    """Return an address's one spelling: NFC, lower case, the domain with A-labels; as it is where it is too long."""
    text = address.strip()
    if len(text) > MAX_ADDRESS_CHARS:
        return text.lower()
    local, at, domain = unicodedata.normalize("NFC", text).lower().rpartition("@")
    # Upper case may compose differently from lower case; a second pass makes the spelling final.
    local = unicodedata.normalize("NFC", local)
    try:
        return local + at + to_ascii(text.rpartition("@")[2])
    except InvalidDomain:
        return local + at + unicodedata.normalize("NFC", domain)


def seal(secret: str, plain: str) -> bytes:
    """Encrypt a credential for storage (Fernet: AES-128-CBC + HMAC)."""
    return _fernet(secret).encrypt(plain.encode())


def unseal(secret: str, sealed: bytes) -> str:
    """The credential. Raises BadSettings where it was sealed under another secret."""
    try:
        return _fernet(secret).decrypt(sealed).decode()
    except InvalidToken:
        raise InvalidSettings("MAILFOLD_SECRET: a stored credential was sealed under another secret") from None


def _fernet(secret: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hmac.digest(secret.encode(), b"seal\x01", hashlib.sha256)))
