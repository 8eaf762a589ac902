"""Deterministic ids, computed from a caller's or a provider's data.

They make repeats harmless: a caller that retries gets the same ``email_id``, and an event that a provider repeats has
the same ``event_id``.
"""

import hashlib
import uuid
from collections.abc import Iterable

from topics.record import EmailId

NAMESPACE = uuid.UUID("6f1d6c1c-6a0e-5c1e-9a43-5b0f2f6d9e11")
"""Namespace of all our UUIDv5 (RFC 9562 §5.5). Never change it: ids on the log depend on it."""


MAX_ID_BYTES = 300
"""Bytes up to which a provider's id is kept unchanged; longer ids are hashed, because every change repeats them."""

_NAMESPACE = NAMESPACE.bytes
_FIXED = (1 << 128) - 1 ^ (0xF << 76 | 0x3 << 62)
_VERSION_5 = 0x5 << 76 | 0x2 << 62


def _uuid5(kind: str, parts: Iterable[str]) -> str:
    # The length before each part keeps ("a", "bc") and ("ab", "c") apart.
    name = kind + "".join([f"|{len(part)}:{part}" for part in parts])
    # RFC 9562 §5.5 without the library's UUID object, which takes three times as long.
    digest = hashlib.sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    number = int.from_bytes(digest[:16], "big") & _FIXED | _VERSION_5
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def email_id(tenant: str, dialect: str, identity: str, ordinal: int = 0) -> EmailId:
    """Return the id of the email to the ``ordinal``-th recipient of the message that its caller calls ``identity``."""
    return EmailId(_uuid5("email", (tenant, dialect, identity, str(ordinal))))


def message_id(tenant: str, dialect: str, identity: str) -> str:
    """Return the id that groups the emails of one message."""
    return _uuid5("message", (tenant, dialect, identity))


def event_id(source: str, *parts: str) -> str:
    """Return an id for a fact whose source gives none, from the parts that identify the fact."""
    return f"{source}:{_uuid5('event', (source, *parts))}"


def fingerprint(recipient: str, brand: str) -> bytes:
    """Return a hash of a request's recipient and brand; the same identity with another fingerprint is refused.

    It is SHA-256, because a collision would let a second recipient pass as the first.
    """
    name = "".join(f"|{len(part)}:{part}" for part in (recipient, brand))
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def brand_uuid(tenant: str, brand: str) -> str:
    """Return the Brand UUID of ``/v1/Email/``; a brand that is a UUID already is returned in canonical form."""
    try:
        return str(uuid.UUID(brand))
    except ValueError:
        return _uuid5("brand", (tenant, brand))


def owner_uuid(tenant: str) -> str:
    """Return the Owner UUID of ``/v1/Email/``, made from the tenant."""
    return _uuid5("owner", (tenant,))


def short_id(identifier: str) -> str:
    """Return the identifier, or its SHA-256 if it is longer than :data:`MAX_ID_BYTES`."""
    if len(identifier) <= MAX_ID_BYTES // 4:  # whatever the characters
        return identifier
    raw = identifier.encode("utf-8", "surrogatepass")
    return identifier if len(raw) <= MAX_ID_BYTES else f"sha256:{hashlib.sha256(raw).hexdigest()}"


def id_hash(identifier: str) -> int:
    """Return 63 bits of BLAKE2b, which fit into a signed 64-bit integer of JSON readers and Postgres."""
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
