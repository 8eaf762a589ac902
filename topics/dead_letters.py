"""`dead-letters`: what could not be understood or done, kept with its place and the reason; MessagePack.

:func:`dead_letter` is the only place that makes one. Whoever reads a topic must be able to put aside any record of it:
a dead letter that does not fit into a record of its own would be refused for ever and hold its reader up.
"""

from typing import Final

from topics.record import LogPosition, Millis, Record

MAX_VALUE_BYTES: Final = 890_000
"""What is kept of a value: together with the rest it fits into a record (:data:`topics.registry.MAX_RECORD_BYTES`),
although a foreign writer's record may be larger, or was compressed."""
MAX_KEY_BYTES: Final = 1_000
MAX_ERROR_CHARS: Final = 1_000
MAX_REASON_CHARS: Final = 60


class DeadLetter(Record, tag="dead-letter/1", frozen=True, kw_only=True):
    """A record, where it came from, and why it went no further."""

    source: LogPosition
    recorded_at: Millis
    reason: str
    """One word for the class of failure, such as ``undecodable`` or ``uncorrelated``."""
    error: str
    """What and where, in words."""
    role: str
    key: bytes | None = None
    value: bytes | None = None
    cut: int = 0
    """Bytes that are missing at the end of key and value; all of them are at ``source``, while the log keeps it."""


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


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which no encoder takes: it may quote a stranger's bytes."""
    return text.encode("utf-8", "replace").decode()
