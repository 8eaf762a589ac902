"""Parse a raw message into header fields and decoded parts, within limits; `parse` calls it.

The standard library parses header blocks, and this module the bodies: the library's parser splits a
`message/delivery-status` before it decodes the transfer encoding, recurses into nested parts, and needs quadratic time
for deep nesting. Anybody can send mail to our return paths, so that the cost of every input must be limited.
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
"""Bytes that are read of a header block."""
MAX_TEXT_BYTES: Final = 262_144
"""Bytes that are read of a part: reports are short, and what follows them is our own message."""
MAX_PARTS: Final = 60
MAX_DEPTH: Final = 6
MAX_VALUE_CHARS: Final = 4_000
MAX_MESSAGE_BYTES: Final = 1_000_000
"""Bytes that are read of a message; a Kafka record holds less."""
MAX_PARAMETERS: Final = 20
"""Parameters that are read of a content type."""
MAX_PARAMETER_CHARS: Final = 2_000
"""Characters that are read of a content type: the library needs quadratic time for semicolons in quotation marks."""
MAX_ENCODED_WORDS: Final = 100
"""Encoded words (RFC 2047) in a field; one with more is not decoded."""

_BLANK: Final = re.compile(rb"(?:\A|\n)\r?\n")
# The newer policies parse the value of a field when it is read, and raise for some malformed values (CPython's issues
# 79986, 95087 and others); compat32 returns it as text.
_PARSER: Final = BytesHeaderParser(policy=compat32)
_LIBRARY_ERRORS: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    MessageError,
    RecursionError,
)


class HeaderFields:
    """A block of header fields; names are in lower case, and an absent field reads as empty."""

    __slots__ = ("_message",)

    def __init__(self, block: bytes) -> None:
        self._message: Message = _call_or(lambda: _PARSER.parsebytes(block[:MAX_HEAD_BYTES]), Message())

    def __contains__(self, name: str) -> bool:
        return name in self._message

    def get(self, name: str) -> str:
        """Return the first field of that name, unfolded and decoded (RFC 2047)."""
        return next(iter(self.all(name)), "")

    def all(self, name: str) -> list[str]:
        """Return all fields of that name, at most twenty."""
        # `Message.get_all` replaces what is not ASCII, but addresses may contain it (RFC 6532).
        values = [value for key, value in self._message.raw_items() if key.lower() == name]
        return [_decoded(str(value)[:MAX_VALUE_CHARS]) for value in values[:20]]

    @property
    def type(self) -> str:
        """Return the media type, in lower case; text/plain if it is absent or malformed."""
        return _call_or(self._message.get_content_type, "text/plain")

    def parameter(self, name: str) -> str:
        """Return a parameter of the content type; empty if it is absent."""
        full = next((str(value) for key, value in self._message.raw_items() if key.lower() == "content-type"), "")
        shortened = Message()
        shortened["content-type"] = ";".join(full[:MAX_PARAMETER_CHARS].split(";", MAX_PARAMETERS)[:MAX_PARAMETERS])
        value: Any = _call_or(lambda: shortened.get_param(name, ""), None)
        # A tuple of charset, language and value (RFC 2231).
        return str(value[2]) if isinstance(value, tuple) else str(value or "")


class MimePart(msgspec.Struct, frozen=True):
    """A part of a message that has no parts itself."""

    type: str
    content: bytes
    """The content after its transfer encoding was decoded."""
    charset: str = "utf-8"

    @property
    def text(self) -> str:
        """Return the content as text, with undecodable bytes replaced."""
        try:
            decoded = self.content.decode(self.charset or "utf-8", "replace")
        except (LookupError, ValueError):
            decoded = self.content.decode("utf-8", "replace")
        return decoded.replace("\r\n", "\n").replace("\x00", "")


class MimeMessage(msgspec.Struct, frozen=True):
    """A parsed message, as far as the limits allow."""

    fields: HeaderFields
    parts: tuple[MimePart, ...]

    def first(self, *types: str) -> MimePart | None:
        """Return the first part of one of these types; None if there is none."""
        return next((part for part in self.parts if part.type in types), None)


def read(raw: bytes) -> MimeMessage:
    """Return the parsed message."""
    head, body = divide(raw[:MAX_MESSAGE_BYTES])
    fields = HeaderFields(head)
    return MimeMessage(fields, tuple(_parts(fields, body)))


def divide(raw: bytes) -> tuple[bytes, bytes]:
    """Return the header block and the body, which a blank line separates."""
    blank = _BLANK.search(raw)
    return (raw, b"") if blank is None else (raw[: blank.start() + 1], raw[blank.end() :])


def blocks(text: bytes) -> list[HeaderFields]:
    """Return the blocks of fields of a report, which blank lines separate."""
    pieces = re.split(rb"\n(?:[ \t]*\r?\n)+", text.lstrip(b"\r\n")[:MAX_TEXT_BYTES], maxsplit=200)
    return [HeaderFields(piece + b"\n") for piece in pieces[:200] if piece.strip()]


def _parts(fields: HeaderFields, body: bytes) -> Iterator[MimePart]:
    pending = [(fields, body, 0)]
    count = 0
    while pending and count < MAX_PARTS:
        count += 1
        fields, body, depth = pending.pop(0)
        boundary = fields.parameter("boundary") if fields.type.startswith("multipart/") else ""
        inner = [divide(piece) for piece in _pieces(body, boundary)] if boundary and depth < MAX_DEPTH else []
        if inner:
            # In front, to keep the order: the parts of a part come before the parts that follow it.
            pending[:0] = [(HeaderFields(head), content, depth + 1) for head, content in inner]
        else:
            yield _leaf(fields, body)


def _leaf(fields: HeaderFields, body: bytes) -> MimePart:
    if fields.type.startswith("multipart/"):
        # Its parts cannot be found, but it may still be readable text; it has no transfer encoding (RFC 2045 §6.4).
        return MimePart("text/plain", body[:MAX_TEXT_BYTES])
    return MimePart(fields.type, _content(fields, body), fields.parameter("charset"))


def _pieces(body: bytes, boundary: str) -> list[bytes]:
    """Return what is between the lines of a boundary (RFC 2046 §5.1.1), to the end if the last line is missing."""
    escaped = re.escape(boundary.encode("utf-8", "surrogateescape"))
    delimiter = re.compile(rb"(?m)^--" + escaped + rb"(--)?[ \t]*\r?(?:\n|\Z)")
    pieces, start = [], -1
    for match in delimiter.finditer(body):
        if start >= 0:
            pieces.append(body[start : match.start()])
        start = -1 if match[1] else match.end()
        if match[1] or len(pieces) >= MAX_PARTS:
            return pieces
    return [*pieces, body[start:]] if start >= 0 else pieces


def _content(fields: HeaderFields, body: bytes) -> bytes:
    encoding = fields.get("content-transfer-encoding").strip().lower()
    if encoding == "base64":
        return _base64(body[: MAX_TEXT_BYTES * 2])[:MAX_TEXT_BYTES]
    if encoding == "quoted-printable":
        return _call_or(lambda: quopri.decodestring(body[: MAX_TEXT_BYTES * 2]), body)[:MAX_TEXT_BYTES]
    return body[:MAX_TEXT_BYTES]


def _base64(body: bytes) -> bytes:
    """Return as much as can be decoded of a truncated or damaged body; the body itself if it is not base64."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", body)
    return _call_or(lambda: binascii.a2b_base64(clean[: len(clean) // 4 * 4]), body) or body


def _decoded(value: str) -> str:
    unfolded = re.sub(r"\r?\n(?=[ \t])", "", value).strip()
    if not 0 < unfolded.count("=?") <= MAX_ENCODED_WORDS:
        return unfolded.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    pieces = _call_or(lambda: decode_header(unfolded), [(unfolded, None)])
    return "".join(_piece(piece, charset) for piece, charset in pieces)[:MAX_VALUE_CHARS]


def _piece(piece: str | bytes, charset: str | None) -> str:
    if isinstance(piece, str):
        return piece.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _call_or(lambda: piece.decode(charset or "utf-8", "replace"), piece.decode("latin-1"))


def _call_or(call: Callable[[], T], default: T) -> T:
    """Return the result of ``call``, or ``default`` if the library raises for malformed input."""
    try:
        return call()
    except _LIBRARY_ERRORS:
        return default
