"""Sign tokens, hash addresses and encrypt credentials, with a subkey of `MAILFOLD_SECRET` for each purpose.

Every role calls it. Purposes never share a key, so that a token for a pixel is not valid as a cursor.
"""

import base64
import hashlib
import hmac
import unicodedata
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from pipeline.content.domains import InvalidDomain, to_ascii, to_unicode
from pipeline.errors import InvalidSettings, InvalidSignatureError
from projections.suppression_rules import OldAddressHash

TAG_BYTES: Final = 16
"""Bytes of a tag: 128 bits can't be guessed, and links stay short."""

MAX_ADDRESS_CHARS: Final = 2_000
"""Length above which a text is no address: it is only converted to lower case, since normalizing it would take long."""


class Signer:
    """A signer with HMAC-SHA256 under the subkey of one purpose (RFC 5869's expand step, one block)."""

    def __init__(self, secret: str, purpose: str) -> None:
        self._key = hmac.digest(secret.encode(), purpose.encode() + b"\x01", hashlib.sha256)

    def tag(self, message: bytes) -> bytes:
        """Return the 16-byte tag of a message."""
        return hmac.digest(self._key, message, hashlib.sha256)[:TAG_BYTES]

    def digest(self, message: bytes) -> bytes:
        """Return the whole 32-byte keyed hash, for values that are looked up rather than verified."""
        return hmac.digest(self._key, message, hashlib.sha256)

    def verify(self, message: bytes, tag: bytes) -> bool:
        """Return whether the tag is the message's; the comparison takes constant time."""
        return hmac.compare_digest(self.tag(message), tag)


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


def signers(secret: str, previous: str, purpose: str) -> tuple[Signer, ...]:
    """Return the signers whose tags are valid: first the present secret's, which signs, then the previous secret's."""
    return tuple(Signer(value, purpose) for value in (secret, previous) if value)


def hash_address(signer: Signer, address: str) -> bytes:
    """Return the keyed hash under which an address is suppressed.

    Case does not count in a domain (RFC 5321 §2.4), and almost never in a local part: the few servers that do tell
    `Anna@` from `anna@` matter less than a suppression of `anna@` that `Anna@` would evade.
    """
    return signer.digest(_canonical_address(address).encode("utf-8", "surrogatepass"))


def old_hash_of(signer: Signer, address: str) -> OldAddressHash | None:
    """Return the hash that earlier versions stored for an address; None where it is the same.

    They hashed the domain as it was spelled, for which we assume U-labels, as most people write them. They folded case
    as Unicode does: ß became ss, so that two domains could share one hash.
    """
    canonical = _canonical_address(address)
    local, at, domain = canonical.rpartition("@")
    folded = (local + at + to_unicode(domain)).casefold()
    if folded == canonical:
        return None
    shared = _canonical_address(folded) != canonical
    return OldAddressHash(signer.digest(folded.encode("utf-8", "surrogatepass")), shared=shared)


def _canonical_address(address: str) -> str:
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


def seal(secret: str, plain: str) -> bytes:
    """Encrypt a credential for storage (Fernet: AES-128-CBC + HMAC)."""
    return _fernet(secret).encrypt(plain.encode())


def unseal(secret: str, sealed: bytes) -> str:
    """Return the decrypted credential. Raise InvalidSettings where it was encrypted under another secret."""
    try:
        return _fernet(secret).decrypt(sealed).decode()
    except InvalidToken:
        raise InvalidSettings("MAILFOLD_SECRET: a stored credential was sealed under another secret") from None


def _fernet(secret: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hmac.digest(secret.encode(), b"seal\x01", hashlib.sha256)))
