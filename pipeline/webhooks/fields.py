"""A JSON object's fields, read with care: providers send numbers as strings, null for absent, and worse."""

import re
import uuid
from typing import Final

import msgspec

from pipeline.errors import Unrecognised
from pipeline.webhooks.base import EMAIL_ID_KEY
from topics.record import EmailId

_BROKEN: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_RAW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_AS_WE_WRITE_IT: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
"""Nearly all are, and a pattern reads them in a fifth of the time."""
_EMBEDDED: Final = re.compile(EMAIL_ID_KEY + r'[\\"\s]{0,8}[:=][\\"\s]{0,8}([0-9a-f-]{36})(?![0-9a-f-])', re.IGNORECASE)


class EventFields:
    """One object; a field that is absent, null or of another kind is empty."""

    __slots__ = ("raw",)

    def __init__(self, raw: dict[str, msgspec.Raw]) -> None:
        self.raw = raw

    @classmethod
    def read(cls, value: bytes) -> "EventFields":
        """An object from its bytes, valid throughout. Raises Unrecognised."""
        try:
            # Two passes: Raw alone would let broken JSON inside a field through.
            msgspec.json.decode(value)
            return cls(_RAW.decode(value))
        except _BROKEN as error:
            raise Unrecognised(f"not an event object: {error}") from None

    def text(self, *path: str) -> str:
        """A string, number or boolean as text, its NULs dropped; objects and arrays are not texts."""
        raw = bytes(self.raw.get(path[0], b"")) if len(path) == 1 else self._at(path)
        if raw[:1] == b'"':
            return _TEXT.decode(raw).replace("\x00", "")
        return "" if raw in (b"", b"null") or raw[:1] in b"{[" else raw.decode()

    def true(self, *path: str) -> bool:
        """Whether it says yes, as a boolean, a word or a number."""
        return self.text(*path).lower() in ("true", "1", "yes")

    def object(self, *path: str) -> "EventFields":
        """An object, maybe empty."""
        raw = self._at(path)
        return EventFields(_RAW.decode(raw)) if raw.startswith(b"{") else EventFields({})

    def items(self, *path: str) -> list[bytes]:
        """An array's items, each as its own bytes."""
        raw = self._at(path)
        return [bytes(one) for one in _RAWS.decode(raw)] if raw.startswith(b"[") else []

    def objects(self, *path: str) -> list["EventFields"]:
        """An array's objects; its other items are left out."""
        return [EventFields(_RAW.decode(one)) for one in self.items(*path) if one.startswith(b"{")]

    def texts(self, *path: str) -> list[str]:
        """An array's items as texts; those that are none are left out."""
        return list(filter(None, (EventFields({"": msgspec.Raw(one)}).text("") for one in self.items(*path))))

    def email_id(self, *path: str) -> EmailId | None:
        """The id that we embedded, where this is one."""
        return as_email_id(self.text(*path))

    def _at(self, path: tuple[str, ...]) -> bytes:
        raw = self.raw
        for name in path[:-1]:
            inner = bytes(raw.get(name, b""))
            raw = _RAW.decode(inner) if inner.startswith(b"{") else {}
        return bytes(raw.get(path[-1], b""))


def as_email_id(text: str) -> EmailId | None:
    """The id that this text is, if it is one."""
    if _AS_WE_WRITE_IT.fullmatch(text):
        return EmailId(text)
    try:
        return EmailId(str(uuid.UUID(text)))
    except ValueError:
        return None


def split_object(body: bytes) -> list[bytes]:
    """The one event that a request is, as JSON object. Raises Unrecognised."""
    EventFields.read(body)
    return [body]


def split_array(body: bytes) -> list[bytes]:
    """The events of a JSON array. Raises Unrecognised."""
    try:
        return [bytes(event) for event in _RAWS.decode(body)]
    except _BROKEN as error:
        raise Unrecognised(f"not a JSON array of events: {error}") from None


def split_events(body: bytes) -> list[bytes]:
    """The events of a JSON array, or the one that came without an array around it. Raises Unrecognised."""
    return (split_object if body.lstrip().startswith(b"{") else split_array)(body)


def embedded_email_id(*texts: str) -> EmailId | None:
    """The id that we embedded in a text that is repeated as it is, such as a tag: JSON, ``key:value`` or ``key=value``.

    By its name only: a bare UUID may be somebody else's.
    """
    for text in texts:
        for found in _EMBEDDED.finditer(text):
            try:
                return EmailId(str(uuid.UUID(found[1])))
            except ValueError:
                continue
    return None
