"""`dead-letters`: what could not be understood or done, kept with its place and the reason; MessagePack."""

from topics.record import Millis, Place, Record


class DeadLetter(Record, tag="dead-letter/1", frozen=True, kw_only=True):
    """A record, where it came from, and why it went no further."""

    source: Place
    recorded_at: Millis
    reason: str
    """One word for the class of failure, such as ``undecodable`` or ``uncorrelated``."""
    error: str
    """What and where, in words."""
    role: str
    key: bytes | None = None
    value: bytes | None = None
