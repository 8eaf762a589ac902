"""Sign tokens, hash addresses and encrypt credentials, with a subkey of each secret for each purpose.

Every role calls it. Purposes never share a key, so that a token for a pixel is not valid as a cursor.
"""

import base64
import hashlib
import hmac
import unicodedata
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pipeline.content.domains import InvalidDomain, to_ascii, to_unicode
from pipeline.errors import InvalidSettings, InvalidSignatureError
from pipeline.runtime.secrets.secret_ring import SecretRing
from projections.suppression_rules import OldAddressHash

TAG_BYTES: Final = 16
"""Bytes of a tag: 128 bits can't be guessed, and links stay short."""

MAX_ADDRESS_CHARS: Final = 2_000
"""Length above which a text is no address: it is only converted to lower case, since normalizing it would take long."""


class Signer:
    """A signer with HMAC-SHA256 for one purpose: the ring's first secret signs, each of its secrets verifies."""

    def __init__(self, ring: SecretRing, purpose: str) -> None:
        self._keys = tuple(_subkey(secret, purpose) for secret in ring.values)

    def tag(self, message: bytes) -> bytes:
        """Return the 16-byte tag of a message."""
        return hmac.digest(self._keys[0], message, hashlib.sha256)[:TAG_BYTES]

    def verify(self, message: bytes, tag: bytes) -> bool:
        """Return whether the tag is the message's under any secret; the time does not show under which."""
        is_ours = False
        for key in self._keys:
            is_ours |= hmac.compare_digest(hmac.digest(key, message, hashlib.sha256)[:TAG_BYTES], tag)
        return is_ours


class AddressHasher:
    """A keyed hash for addresses, which are looked up rather than verified: under one secret that stays the same."""

    def __init__(self, ring: SecretRing) -> None:
        self._key = _subkey(ring.address.value, "address")

    def digest(self, message: bytes) -> bytes:
        """Return the 32-byte keyed hash of a text."""
        return hmac.digest(self._key, message, hashlib.sha256)


def _subkey(secret: str, purpose: str) -> bytes:
    """Return the key of one purpose: the expand step of HKDF (RFC 5869), one block."""
    return hmac.digest(secret.encode(), purpose.encode() + b"\x01", hashlib.sha256)


def sign_token(signer: Signer, kind: bytes, payload: bytes) -> str:
    """Return a signed token for URLs: the payload after its tag, in base64url; ``kind`` keeps uses of a key apart."""
    return base64.urlsafe_b64encode(signer.tag(kind + payload) + payload).decode().rstrip("=")


def verify_token(signer: Signer, kind: bytes, token: str, payload_bytes: int | None = None) -> bytes:
    """Return the payload of a token of this kind; raise InvalidSignatureError where it is not valid.

    A payload of another length than ``payload_bytes``, where that is given, is not valid.
    """
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise InvalidSignatureError("the token is not base64url") from None
    tag, payload = raw[:TAG_BYTES], raw[TAG_BYTES:]
    if payload_bytes not in (None, len(payload)) or not signer.verify(kind + payload, tag):
        raise InvalidSignatureError("the token is not ours")
    return payload


def hash_address(hasher: AddressHasher, address: str) -> bytes:
    """Return the keyed hash under which an address is suppressed.

    Case does not count in a domain (RFC 5321 §2.4), and almost never in a local part: the few servers that do tell
    `Anna@` from `anna@` matter less than a suppression of `anna@` that `Anna@` would evade.
    """
    return hasher.digest(canonical_address(address).encode("utf-8", "surrogatepass"))


def old_hash_of(hasher: AddressHasher, address: str) -> OldAddressHash | None:
    """Return the hash that earlier versions stored for an address; None where it is the same.

    They hashed the domain as it was spelled, for which we assume U-labels, as most people write them. They folded case
    as Unicode does: ß became ss, so that two domains could share one hash.
    """
    canonical = canonical_address(address)
    local, at, domain = canonical.rpartition("@")
    folded = (local + at + to_unicode(domain)).casefold()
    if folded == canonical:
        return None
    shared = canonical_address(folded) != canonical
    return OldAddressHash(hasher.digest(folded.encode("utf-8", "surrogatepass")), shared=shared)


def canonical_address(address: str) -> str:
    """Return an address in NFC and lower case, with A-labels in its domain; a too long text only in lower case."""
    text = address.strip()
    if len(text) > MAX_ADDRESS_CHARS:
        return text.lower()
    local, at, domain = unicodedata.normalize("NFC", text).lower().rpartition("@")
    # Lower-casing may leave characters that compose with others, so normalize once more.
    local = unicodedata.normalize("NFC", local)
    try:
        return local + at + to_ascii(text.rpartition("@")[2])
    except InvalidDomain:
        return local + at + unicodedata.normalize("NFC", domain)


def seal(ring: SecretRing, plain: str) -> bytes:
    """Encrypt a credential for storage under the ring's first secret (Fernet: AES-128-CBC + HMAC)."""
    return _fernets(ring)[0].encrypt(plain.encode())


def unseal(ring: SecretRing, sealed: bytes) -> str:
    """Return the decrypted credential. Raise InvalidSettings if no secret of the ring encrypted it."""
    try:
        return MultiFernet(_fernets(ring)).decrypt(sealed).decode()
    except InvalidToken:
        raise InvalidSettings(
            "MAILFOLD_SECRET: a stored credential was sealed under another secret; list that one in MAILFOLD_SECRETS, "
            "or give the credential again"
        ) from None


def is_sealed_under(secret: str, sealed: bytes) -> bool:
    """Return whether a credential was encrypted under this secret."""
    try:
        Fernet(base64.urlsafe_b64encode(_subkey(secret, "seal"))).decrypt(sealed)
    except InvalidToken:
        return False
    return True


def _fernets(ring: SecretRing) -> list[Fernet]:
    return [Fernet(base64.urlsafe_b64encode(_subkey(secret, "seal"))) for secret in ring.values]
