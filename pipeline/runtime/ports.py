"""What the rooms need from outside, as protocols: the log to append to, the clock, new ids."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from topics.record import LogPosition, Record
from topics.registry import Topic

Clock = Callable[[], int]
"""Now, in milliseconds since the Unix epoch, UTC."""

NewId = Callable[[], str]
"""A fresh UUIDv7 (RFC 9562 §5.7): sortable by time."""


class LogEntry(msgspec.Struct, frozen=True):
    """A record on its way to a topic. Same key, same partition; or the partition that is named."""

    topic: Topic
    key: str | None
    record: Record
    partition: int | None = None


class Log(Protocol):
    """The durable log."""

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """Append all within so many seconds; an entry's place once all in-sync replicas have it, else None.

        A None may or may not be on the log: the caller says "repeat" and repeats are harmless.
        Entries of one partition keep their order. Never raises for an unavailable log.
        """
        ...
