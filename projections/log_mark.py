"""The mark of a record that was read: what tells whether the log still has that record at its place.

Readers store it in the transaction that writes what they read. An offset alone does not tell: a log that was restored
to an older moment may have grown beyond it since, with other records.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from topics.record import Millis

DIGEST_BYTES: Final = 16


class LogMark(msgspec.Struct, frozen=True):
    """A record's offset, its time on the log, and the digest of its key and value."""

    offset: int
    time: Millis
    digest: bytes


def mark_of(record: Any) -> LogMark:
    """Return the mark of a consumed record."""
    key, value = record.key or b"", record.value or b""
    text = len(key).to_bytes(4, "big") + key + value
    return LogMark(record.offset, record.timestamp, hashlib.sha256(text).digest()[:DIGEST_BYTES])


def last_mark(records: Sequence[Any], until: int) -> LogMark | None:
    """Return the mark of the last of these records before an offset; None if there is none."""
    for record in reversed(records):
        if record.offset < until:
            return mark_of(record)
    return None


def mark_columns(mark: LogMark | None) -> dict[str, Any]:
    """Return the mark as the parameters of a statement; all None without one."""
    if mark is None:
        return {"last_offset": None, "last_time": None, "last_digest": None}
    return {"last_offset": mark.offset, "last_time": mark.time, "last_digest": mark.digest}


def mark_from_row(row: Sequence[Any]) -> LogMark | None:
    """Return the mark in the three columns of a row; None where no record was read."""
    offset, time, digest = row
    return None if offset is None else LogMark(offset, time, bytes(digest))
