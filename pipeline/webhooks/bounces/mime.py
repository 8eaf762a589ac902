"""A raw message in; its header fields and its parts, decoded and bounded, out.

The standard library reads header blocks; the bodies are cut here. Its own parser takes a `message/delivery-status`
apart before its transfer encoding is undone, walks nested parts by recursion, and needs quadratic time for deep ones;
who writes to our return paths may be anybody.
"""

import binascii
import quopri
import re
from collections.abc import Callable, Iterator
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
MAX_HEAD_BYTES: Final = 65_536
"""Bytes of a header block that are read."""
MAX_TEXT_BYTES: Final = 262_144
"""Bytes of a part that are read: reports are short, and what follows them is our own message."""
MAX_PARTS: Final = 60
MAX_DEPTH: Final = 6
MAX_VALUE_CHARS: Final = 4_000
MAX_MESSAGE_BYTES: Final = 1_000_000
"""Of a message; the head of a longer one is read. A record holds less."""
MAX_PARAMETERS: Final = 20
MAX_PARAMETER_CHARS: Final = 2_000
"""Of a content type: the library needs quadratic time for semicolons in quotation marks."""
MAX_ENCODED_WORDS: Final = 100
"""Of a field (RFC 2047); one with more is handed out as it came."""

_BLANK: Final = re.compile(rb"(?:\A|\n)\r?\n")
# The modern policies parse every field they are asked for, and some spellings make their parser raise (CPython's
# issues 79986, 95087 and others); this one hands out text.
_PARSER: Final = BytesHeaderParser(policy=compat32)
_ODD: Final = (ValueError, TypeError, LookupError, AttributeError, AssertionError, MessageError, RecursionError)


class HeaderFields:
    """A block of header fields; names have no case, an absent field is empty."""

    __slots__ = ("_message",)

    def __init__(self, block: bytes) -> None:
        self._message: Message = _careful(lambda: _PARSER.parsebytes(block[:MAX_HEAD_BYTES]), Message())

    def __contains__(self, name: str) -> bool:
        return name in self._message

    def get(self, name: str) -> str:
        """The first field of that name, unfolded and decoded (RFC 2047)."""
        return next(iter(self.all(name)), "")

    def all(self, name: str) -> list[str]:
        """Every field of that name, twenty at most."""
        # Asked by name, the library hides what is not ASCII; addresses need not be (RFC 6532).
        values = [value for given, value in self._message.raw_items() if given.lower() == name]
        return [_decoded(str(value)[:MAX_VALUE_CHARS]) for value in values[:20]]

    @property
    def type(self) -> str:
        """The media type, in lower case; text/plain where none is given or it is broken."""
        return _careful(self._message.get_content_type, "text/plain")

    def parameter(self, name: str) -> str:
        """A parameter of the content type."""
        given = next((str(value) for key, value in self._message.raw_items() if key.lower() == "content-type"), "")
        few = Message()
        few["content-type"] = ";".join(given[:MAX_PARAMETER_CHARS].split(";", MAX_PARAMETERS)[:MAX_PARAMETERS])
        found: Any = _careful(lambda: few.get_param(name, ""), None)
        return str(found[2]) if isinstance(found, tuple) else str(found or "")


class MimePart(msgspec.Struct, frozen=True):
    """A part that is not itself divided."""

    type: str
    content: bytes
    """Without its transfer encoding."""
    charset: str = "utf-8"

    @property
    def text(self) -> str:
        """As text, whatever it is."""
        try:
            decoded = self.content.decode(self.charset or "utf-8", "replace")
        except (LookupError, ValueError):
            decoded = self.content.decode("utf-8", "replace")
        return decoded.replace("\r\n", "\n").replace("\x00", "")


class MimeMessage(msgspec.Struct, frozen=True):
    """A message, read as far as its limits allow."""

    fields: HeaderFields
    parts: tuple[MimePart, ...]

    def first(self, *types: str) -> MimePart | None:
        """The first part of one of these types."""
        return next((part for part in self.parts if part.type in types), None)


def read(raw: bytes) -> MimeMessage:
    """Take a message apart."""
    head, body = divide(raw[:MAX_MESSAGE_BYTES])
    fields = HeaderFields(head)
    return MimeMessage(fields, tuple(_parts(fields, body)))


def divide(raw: bytes) -> tuple[bytes, bytes]:
    """The header block, and what follows its blank line."""
    found = _BLANK.search(raw)
    return (raw, b"") if found is None else (raw[: found.start() + 1], raw[found.end() :])


def blocks(text: bytes) -> list[HeaderFields]:
    """Blocks of fields with blank lines between them, as reports are written."""
    pieces = re.split(rb"\n(?:[ \t]*\r?\n)+", text.lstrip(b"\r\n")[:MAX_TEXT_BYTES], maxsplit=200)
    return [HeaderFields(piece + b"\n") for piece in pieces[:200] if piece.strip()]


def _parts(fields: HeaderFields, body: bytes) -> Iterator[MimePart]:
    waiting = [(fields, body, 0)]
    seen = 0
    while waiting and seen < MAX_PARTS:
        seen += 1
        fields, body, depth = waiting.pop(0)
        boundary = fields.parameter("boundary") if fields.type.startswith("multipart/") else ""
        inner = [divide(piece) for piece in _pieces(body, boundary)] if boundary and depth < MAX_DEPTH else []
        if inner:
            # In order: the parts of a part come before the parts that follow it.
            waiting[:0] = [(HeaderFields(head), content, depth + 1) for head, content in inner]
        else:
            yield _leaf(fields, body)


def _leaf(fields: HeaderFields, body: bytes) -> MimePart:
    if fields.type.startswith("multipart/"):
        # None of its parts can be found: people could still read it as text. It can't be encoded (RFC 2045 §6.4).
        return MimePart("text/plain", body[:MAX_TEXT_BYTES])
    return MimePart(fields.type, _content(fields, body), fields.parameter("charset"))


def _pieces(body: bytes, boundary: str) -> list[bytes]:
    """Between the lines of a boundary (RFC 2046 §5.1.1); where the last one is missing, to the end."""
    line = re.escape(boundary.encode("utf-8", "surrogateescape"))
    marks = re.compile(rb"(?m)^--" + line + rb"(--)?[ \t]*\r?(?:\n|\Z)")
    pieces, start = [], -1
    for mark in marks.finditer(body):
        if start >= 0:
            pieces.append(body[start : mark.start()])
        start = -1 if mark[1] else mark.end()
        if mark[1] or len(pieces) >= MAX_PARTS:
            return pieces
    return [*pieces, body[start:]] if start >= 0 else pieces


def _content(fields: HeaderFields, body: bytes) -> bytes:
    encoding = fields.get("content-transfer-encoding").strip().lower()
    if encoding == "base64":
        return _base64(body[: MAX_TEXT_BYTES * 2])[:MAX_TEXT_BYTES]
    if encoding == "quoted-printable":
        return _careful(lambda: quopri.decodestring(body[: MAX_TEXT_BYTES * 2]), body)[:MAX_TEXT_BYTES]
    return body[:MAX_TEXT_BYTES]


def _base64(body: bytes) -> bytes:
    """Of what was cut off or broken, as much as can be read; as it came if it is no base64 at all."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", body)
    return _careful(lambda: binascii.a2b_base64(clean[: len(clean) // 4 * 4]), body) or body


def _decoded(value: str) -> str:
    unfolded = re.sub(r"\r?\n(?=[ \t])", "", value).strip()
    if not 0 < unfolded.count("=?") <= MAX_ENCODED_WORDS:
        return unfolded.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    pieces = _careful(lambda: decode_header(unfolded), [(unfolded, None)])
    return "".join(_piece(piece, charset) for piece, charset in pieces)[:MAX_VALUE_CHARS]


def _piece(piece: str | bytes, charset: str | None) -> str:
    if isinstance(piece, str):
        return piece.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _careful(lambda: piece.decode(charset or "utf-8", "replace"), piece.decode("latin-1"))


def _careful(call: Callable[[], T], otherwise: T) -> T:
    """What the library makes of a stranger's bytes, or this where it stumbles over them."""
    try:
        return call()
    except _ODD:
        return otherwise
