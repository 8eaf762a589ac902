"""Read the fields of a JSON object tolerantly; the provider adapters call it.

Providers send numbers as strings, null for absent fields, and values of unexpected types.
"""

import re
import uuid
from typing import Final

import msgspec

from pipeline.errors import Unrecognised
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY, NO_ECHO, EmailEcho
from topics.record import EmailId

_BROKEN: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_RAW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_CANONICAL_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
"""The spelling that we write. Nearly all ids have it, and the pattern is five times as fast as :class:`uuid.UUID`."""
_EMBEDDED: Final = re.compile(
    EMAIL_ID_KEY + r'[\\"\s]{0,8}[:=][\\"\s]{0,8}([0-9a-f-]{36})(?![0-9a-f-])(?:\.([0-9a-f]{32})(?![0-9a-f]))?',
    re.IGNORECASE,
)
"""The id, and after a full stop its tag (:mod:`pipeline.dispatch.transports.correlation_headers`)."""


class EventFields:
    """The fields of one JSON object; a field that is absent, null or of another type reads as empty."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[str, msgspec.Raw]) -> None:
        self.raw = raw

    @classmethod
    def read(cls, value: bytes) -> "EventFields":
        """Return the fields of an object. Raise Unrecognised unless ``value`` is a valid JSON object."""
        try:
            # Decode everything first: Raw alone would accept broken JSON inside a field.
            msgspec.json.decode(value)
            return cls(_RAW.decode(value))
        except _BROKEN as error:
            raise Unrecognised(f"not an event object: {error}") from None

    def text(self, *path: str) -> str:
        """Return a string, number or boolean as text without NULs; empty for objects and arrays."""
        raw = bytes(self.raw.get(path[0], b"")) if len(path) == 1 else self._at(path)
        if raw[:1] == b'"':
            return _TEXT.decode(raw).replace("\x00", "")
        return "" if raw in (b"", b"null") or raw[:1] in b"{[" else raw.decode()

    def true(self, *path: str) -> bool:
        """Return whether the field is true, as a boolean, a word or a number."""
        return self.text(*path).lower() in ("true", "1", "yes")

    def object(self, *path: str) -> "EventFields":
        """Return the object at ``path``; one without fields if there is none."""
        raw = self._at(path)
        return EventFields(_RAW.decode(raw)) if raw.startswith(b"{") else EventFields({})

    def items(self, *path: str) -> list[bytes]:
        """Return the items of an array, each as its own bytes."""
        raw = self._at(path)
        return [bytes(item) for item in _RAWS.decode(raw)] if raw.startswith(b"[") else []

    def objects(self, *path: str) -> list["EventFields"]:
        """Return the objects of an array, without its other items."""
        return [EventFields(_RAW.decode(item)) for item in self.items(*path) if item.startswith(b"{")]

    def texts(self, *path: str) -> list[str]:
        """Return the non-empty items of an array as texts, without objects and arrays."""
        return list(filter(None, (EventFields({"": msgspec.Raw(item)}).text("") for item in self.items(*path))))

    def echo(self, *path: str) -> EmailEcho:
        """Return our metadata in the object at ``path``; NO_ECHO if its id is not a UUID."""
        return echo_of(self.text(*path, EMAIL_ID_KEY), self.text(*path, EMAIL_TAG_KEY))

    def _at(self, path: tuple[str, ...]) -> bytes:
        raw = self.raw
        for name in path[:-1]:
            inner = bytes(raw.get(name, b""))
            raw = _RAW.decode(inner) if inner.startswith(b"{") else {}
        return bytes(raw.get(path[-1], b""))


def as_email_id(text: str) -> EmailId | None:
    """Return the text as an email_id in its canonical spelling; None if it is not a UUID."""
    if _CANONICAL_UUID.fullmatch(text):
        return EmailId(text)
    try:
        return EmailId(str(uuid.UUID(text)))
    except ValueError:
        return None


def echo_of(email_id: str, tag: str) -> EmailEcho:
    """Return the metadata with these values; NO_ECHO if the id is not a UUID."""
    named = as_email_id(email_id)
    return NO_ECHO if named is None else EmailEcho(named, tag)


def split_object(body: bytes) -> list[bytes]:
    """Return the body, a JSON object, as the only event. Raise Unrecognised."""
    EventFields.read(body)
    return [body]


def split_array(body: bytes) -> list[bytes]:
    """Return the events of a JSON array. Raise Unrecognised."""
    try:
        return [bytes(event) for event in _RAWS.decode(body)]
    except _BROKEN as error:
        raise Unrecognised(f"not a JSON array of events: {error}") from None


def split_events(body: bytes) -> list[bytes]:
    """Return the events of a JSON array, or of a single JSON object. Raise Unrecognised."""
    return (split_object if body.lstrip().startswith(b"{") else split_array)(body)


def embedded_echo(*texts: str) -> EmailEcho:
    """Return our metadata embedded in one of these texts, such as tags, as JSON, ``key:value`` or ``key=value``.

    Only an id beside EMAIL_ID_KEY counts: a bare UUID may belong to another system.
    """
    for text in texts:
        for match in _EMBEDDED.finditer(text):
            try:
                return EmailEcho(EmailId(str(uuid.UUID(match[1]))), match[2] or "")
            except ValueError:
                continue
    return NO_ECHO
