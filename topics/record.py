"""The base classes of all records on topics: frozen, strictly typed, tagged with type and version.

A record's tag is ``name/version``. Changing a record's fields in a way that old bytes no longer satisfy means a new
version and an upcaster in :mod:`topics.codec`; adding a field with a default does not. A reader ignores fields that it
does not know: a newer process may have written them. It stops at a version that it does not know. A new version, a new
type, a new value of an enumeration and a field that must not be lost are written only from a feature level on that
every reader has (:mod:`projections.feature_level`). Times are whole milliseconds since the Unix epoch, UTC
(:data:`Millis`).
"""

from typing import NewType

import msgspec

Millis = int
"""Milliseconds since the Unix epoch, UTC."""

EmailId = NewType("EmailId", str)
"""Canonical lower-case UUID of one message to one recipient."""


class RecordPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A part of a record; never on a topic by itself."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", gc=False):
    """A value on a topic. Subclasses set ``tag="name/version"``."""


class LogPosition(RecordPart, array_like=True, frozen=True, kw_only=True):
    """The place of a record on the log: topic, partition, offset."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Return ``topic/partition/offset``, the form that `mailfold trace` prints."""
        return f"{self.topic}/{self.partition}/{self.offset}"
