"""Bytes <-> record: the only (de)serializer of what lies on a topic.

A record's tag is ``name/version``. Bytes of an older version don't match the current tag, so the
fast path (one typed decode) pays nothing for versioning; only then are they read field by field,
lifted version by version by :data:`UPCASTERS`, and decoded again. Fields pass through as raw
bytes, so an upcast keeps a caller's data verbatim, too.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from topics.record import Record
from topics.registry import TOPICS, Topic

RawFields = dict[str, msgspec.Raw]
Upcaster = Callable[[RawFields], RawFields]

UPCASTERS: Final[dict[str, Upcaster]] = {}
"""``name/version`` -> a function that turns the fields of such a record into the next version's.

The codec sets ``type`` to the next version. Old versions are never removed: the log keeps records
for 400 days, and a user's backup for longer.
"""


_DECODING_ERRORS: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class Undecodable(ValueError):
    """These bytes are no record of this topic; the message says what and where."""


class _Tagged(msgspec.Struct):
    type: str


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


def encode(topic: Topic, record: Record) -> bytes:
    """A record's bytes on ``topic``."""
    return _WIRE_FORMATS[topic.wire].encode(record)


def encode_parts(topic: Topic, parts: msgspec.Struct) -> bytes:
    """The bytes of a record that is put together of bytes: its shape is the record's, its parts are encoded already."""
    return _WIRE_FORMATS[topic.wire].encode(parts)


def decode_with_raw(topic: Topic, value: bytes | None) -> tuple[Any, msgspec.Raw]:
    """The record and its bytes in the newest version, as another record may hold them. Raises Undecodable."""
    if value is not None:
        try:
            return _DECODERS[topic.name](value), msgspec.Raw(value)
        except _DECODING_ERRORS:
            pass
    record = decode(topic, value)
    return record, msgspec.Raw(encode(topic, record))


def decode(topic: Topic, value: bytes | None) -> Any:
    """The record that lies on ``topic`` as ``value``; its type is one of ``topic.value``.

    Raises Undecodable for a tombstone, malformed bytes, an unknown type or version, and a field
    that is missing, unknown or of another type.
    """
    if value is None:
        raise Undecodable(f"{topic.name}: no value (a tombstone)")
    try:
        return _DECODERS[topic.name](value)
    except _DECODING_ERRORS as error:
        return _decode_older(topic, value, error)


def _decode_older(topic: Topic, value: bytes, error: Exception) -> Any:
    try:
        lifted = upcast(topic, value, UPCASTERS)
        if lifted is not None:
            return _DECODERS[topic.name](lifted)
    except _DECODING_ERRORS as broken:
        raise Undecodable(f"{topic.name}: {broken}") from broken
    raise Undecodable(f"{topic.name}: {error}") from error


def upcast(topic: Topic, value: bytes, upcasters: Mapping[str, Upcaster]) -> bytes | None:
    """``value`` at the newest version that ``upcasters`` lead to; None where they know no older one."""
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
