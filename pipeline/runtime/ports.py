"""Types of the external dependencies that bootstrap hands to every role: the log, the clock, new ids."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from topics.record import LogPosition, Record
from topics.registry import Topic

Clock = Callable[[], int]
"""A function that returns the present time in milliseconds since the Unix epoch, UTC."""

NewId = Callable[[], str]
"""A function that returns a new UUIDv7 (RFC 9562 §5.7), which sorts by time."""


class LogEntry(msgspec.Struct, frozen=True):
    """A record to append to a topic: to ``partition`` where it is set, else to the partition of its key."""

    topic: Topic
    key: str | None
    record: Record
    partition: int | None = None


class Log(Protocol):
    """The durable log to which facts and requests are appended."""

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """Append the entries; return each one's place once all in-sync replicas have it, else None.

        ``within`` limits the whole call, in seconds; the default is `MAILFOLD_APPEND_TIMEOUT`. An entry without a
        place may or may not be on the log: the caller repeats it, or asks its client to; repeats are harmless.
        Entries of one partition keep their order. An unavailable log raises no error.
        """
        ...
