"""`dead-letters`: records that could not be processed, with their place and the reason; MessagePack.

:func:`dead_letter` alone makes them. A reader must be able to put aside any record of its topic: a dead letter that did
not fit into a record would be refused every time and block its reader.
"""

import hashlib
from typing import Final

from topics.record import LogPosition, Millis, Record

MAX_VALUE_BYTES: Final = 890_000
"""Bytes kept of a value, so that the dead letter fits into a record (:data:`topics.registry.MAX_RECORD_BYTES`): a
foreign writer's record may be larger, or may have been compressed."""
MAX_KEY_BYTES: Final = 1_000
MAX_ERROR_CHARS: Final = 1_000
MAX_REASON_CHARS: Final = 60


class DeadLetter(Record, tag="dead-letter/1", frozen=True, kw_only=True):
    """A record that could not be processed, with its place and the reason."""

    source: LogPosition
    recorded_at: Millis
    reason: str
    """One word for the class of failure, such as ``undecodable`` or ``uncorrelated``."""
    error: str
    """The error's text."""
    role: str
    key: bytes | None = None
    value: bytes | None = None
    cut: int = 0
    """Bytes that are cut off at the ends of key and value; ``source`` has all of them while the log keeps it."""


def dead_letter(
    source: LogPosition, now: Millis, reason: str, error: str, *, role: str, key: bytes | None, value: bytes | None
) -> DeadLetter:
    """Return a dead letter that fits into a record, however large the key, the value and the texts are."""
    kept_key = None if key is None else bytes(key[:MAX_KEY_BYTES])
    kept_value = None if value is None else bytes(value[:MAX_VALUE_BYTES])
    cut = len(key or b"") + len(value or b"") - len(kept_key or b"") - len(kept_value or b"")
    if value is not None and kept_value is not None and len(kept_value) < len(value):
        error = f"the first {len(kept_value)} of {len(value)} bytes; {error}"
    return DeadLetter(
        source=source,
        recorded_at=now,
        reason=_encodable(reason[:MAX_REASON_CHARS]),
        error=_encodable(error[:MAX_ERROR_CHARS]),
        role=role,
        key=kept_key,
        value=kept_value,
        cut=cut,
    )


def value_digest(value: bytes | None) -> bytes:
    """Return the SHA-256 of what a dead letter keeps of a value, by which a record and its letter are compared."""
    return hashlib.sha256((value or b"")[:MAX_VALUE_BYTES]).digest()


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which can't be encoded: it may quote bytes from outside."""
    return text.encode("utf-8", "replace").decode()
