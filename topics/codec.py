"""The codec: encodes and decodes all records on topics; no other module does.

A record's tag is ``name/version``. Bytes of an older version don't match the current tag, so the fast path (one typed
decode) has no cost for versioning. Only if it fails are they read field by field, converted version by version by
:data:`UPCASTERS` and decoded again. Fields stay raw bytes, so that an upcast keeps a caller's data verbatim.

Fields that a record's class does not have are ignored. A version newer than the class's raises NewerRecord, and its
reader must stop there: what an older process cannot read is for a newer one, not for the dead letters.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from topics.dead_letters import value_digest
from topics.record import LogPosition, Record
from topics.registry import TOPICS, Topic

RawFields = dict[str, msgspec.Raw]
Upcaster = Callable[[RawFields], RawFields]

UPCASTERS: Final[dict[str, Upcaster]] = {}
"""``name/version`` -> a function that converts the fields of such a record to the next version.

The codec sets ``type`` to the next version. Upcasters are never removed: the log keeps records for 400 days, and a
user's backup keeps them longer.
"""


_DECODING_ERRORS: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class Undecodable(ValueError):
    """The bytes are no record of the topic; the message says why and in which field."""


class NewerRecord(Exception):
    """A record has a version that only a newer Mailfold knows; its reader must stop, and the process be upgraded."""

    place: LogPosition | None = None
    """Where the record lies; None if it was not read from a topic."""
    digest: bytes = b""
    """The record's :func:`topics.dead_letters.value_digest`."""

    def at(self, place: LogPosition) -> "NewerRecord":
        """Return the error with the place of the record."""
        error = NewerRecord(f"{place}: {self}")
        error.place, error.digest = place, self.digest
        return error


class _Tagged(msgspec.Struct):
    type: str


class _TaggedParts(msgspec.Struct):
    """The tag of a record and those of the records in it: changes have facts and a state, a state has a request."""

    type: str
    facts: tuple["_TaggedFact", ...] = ()
    state: "_TaggedParts | None" = None
    request: "_TaggedParts | None" = None

    def tags(self) -> tuple[str, ...]:
        parts = (*(applied.fact for applied in self.facts), self.state, self.request)
        return (self.type, *(tag for part in parts if part is not None for tag in part.tags()))


class _TaggedFact(msgspec.Struct):
    fact: _TaggedParts


class _WireFormat(msgspec.Struct, frozen=True):
    encode: Callable[[Any], bytes]
    decode: Callable[..., Any]


_WIRE_FORMATS: Final = {
    "json": _WireFormat(msgspec.json.Encoder().encode, msgspec.json.decode),
    "msgpack": _WireFormat(msgspec.msgpack.Encoder().encode, msgspec.msgpack.decode),
}
_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    topic.name: (
        msgspec.json.Decoder(topic.value) if topic.wire == "json" else msgspec.msgpack.Decoder(topic.value)
    ).decode
    for topic in TOPICS
}


_VERSIONS: Final[dict[str, int]] = {
    name: int(version)
    for topic in TOPICS
    for kind in getattr(topic.value, "__args__", (topic.value,))
    for name, _, version in (kind.__struct_config__.tag.partition("/"),)
}
"""The version of each record that this process writes, which is the newest that it knows."""


def encode(topic: Topic, record: Record) -> bytes:
    """Return a record's bytes on ``topic``."""
    return _WIRE_FORMATS[topic.wire].encode(record)


def encode_parts(topic: Topic, parts: msgspec.Struct) -> bytes:
    """Return the bytes of a record whose parts are encoded already; ``parts`` has the record's shape and tag."""
    return _WIRE_FORMATS[topic.wire].encode(parts)


def decode_with_raw(topic: Topic, value: bytes | None) -> tuple[Any, msgspec.Raw]:
    """Return the record and its bytes in the newest version, to embed in another record.

    Raises Undecodable and NewerRecord.
    """
    if value is not None:
        try:
            return _DECODERS[topic.name](value), msgspec.Raw(value)
        except _DECODING_ERRORS:
            pass
    record = decode(topic, value)
    return record, msgspec.Raw(encode(topic, record))


def decode(topic: Topic, value: bytes | None) -> Any:
    """Return the record in ``value``; its type is one of ``topic.value``.

    Raises NewerRecord for a version that only a newer process knows, and Undecodable for a tombstone, malformed bytes,
    an unknown type, and a field that is missing or of another type.
    """
    if value is None:
        raise Undecodable(f"{topic.name}: no value (a tombstone)")
    try:
        return _DECODERS[topic.name](value)
    except _DECODING_ERRORS as error:
        return _decode_older(topic, value, error)


def _decode_older(topic: Topic, value: bytes, error: Exception) -> Any:
    try:
        upcasted = upcast(topic, value, UPCASTERS)
        if upcasted is not None:
            return _DECODERS[topic.name](upcasted)
    except _DECODING_ERRORS as upcast_error:
        raise Undecodable(f"{topic.name}: {upcast_error}") from upcast_error
    require_known_version(topic, value)
    raise Undecodable(f"{topic.name}: {error}") from error


def require_known_version(topic: Topic, value: bytes | None) -> None:
    """Raise NewerRecord if a record, or one in it, has a version that only a newer process knows."""
    try:
        tags = () if value is None else _WIRE_FORMATS[topic.wire].decode(value, type=_TaggedParts).tags()
    except _DECODING_ERRORS:
        return
    for tag in tags:
        name, _, version = tag.partition("/")
        if name in _VERSIONS and version.isascii() and version.isdigit() and int(version[:9]) > _VERSIONS[name]:
            newest = f"{name}/{_VERSIONS[name]}, the newest that this process knows"
            error = NewerRecord(f"{tag} is newer than {newest}; upgrade this process")
            error.digest = value_digest(value)
            raise error


def upcast(topic: Topic, value: bytes, upcasters: Mapping[str, Upcaster]) -> bytes | None:
    """Return ``value`` in the newest version that ``upcasters`` lead to; None if they have none for its version."""
    wire = _WIRE_FORMATS[topic.wire]
    tag = wire.decode(value, type=_Tagged).type
    if tag not in upcasters:
        return None
    fields: RawFields = wire.decode(value, type=RawFields)
    while tag in upcasters:
        fields = upcasters[tag](fields)
        name, _, version = tag.rpartition("/")
        tag = f"{name}/{int(version) + 1}"
        fields["type"] = msgspec.Raw(wire.encode(tag))
    return wire.encode(fields)
