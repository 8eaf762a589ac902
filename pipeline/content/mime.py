"""A request and its content in, the message's bytes out (RFC 5322, MIME). Pure: the same input, the same bytes.

Assembled by hand from the standard library's encoders, because its message objects parse every
header they are given: ten times the time, for the same bytes. Tests read the result back with the
standard library. Only 7-bit lines of at most 76 characters leave here (998 where the sender's own
plain ASCII has them), so no server's missing 8BITMIME matters; UTF-8 in headers only where an
address needs it.
"""

import base64
import binascii
import re
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote

from pipeline.content.domains import InvalidDomain, to_ascii
from pipeline.content.header_names import is_steering
from pipeline.content.message import MessageHeaders, OutgoingMessage
from pipeline.content.text import text_of
from topics.contents import Attachment, MessageContent
from topics.record import Millis
from topics.requests import Mailbox, SendRequest

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]+")
_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")
_ATOMS: Final = re.compile(r"\A[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*\Z")
_HEADER_NAME: Final = re.compile(r"[!-9;-~]{1,60}\Z")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,80}\Z", re.IGNORECASE)
_SINGLE_SPACE: Final = re.compile(r"(?<=\S) (?=\S)")
_LINE_MAX_OCTETS: Final = 998
_UNFOLDED_MAX_CHARS: Final = 60
_RESERVED_HEADERS: Final = re.compile(
    r"(from|to|cc|bcc|sender|reply-to|subject|date|message-id|mime-version|content-(type|transfer-encoding|disposition)"
    r"|return-path|received|x-smtpapi|dkim-signature)\Z",
    re.IGNORECASE,
)
"""Headers that a caller's own headers may not replace."""


def encode_message(letter: OutgoingMessage) -> bytes:
    """The whole message that a letter is."""
    return encode_request(
        letter.request,
        letter.content,
        sender=letter.sender,
        message_id=letter.message_id,
        date=letter.date,
        extra=letter.extra_headers,
    )


def encode_request(
    request: SendRequest,
    content: MessageContent,
    *,
    sender: Mailbox,
    message_id: str,
    date: Millis,
    extra: MessageHeaders = (),
) -> bytes:
    """The whole message; ``extra`` are headers of ours, such as the provider's own."""
    boundary = f"=_mf_{request.email_id.replace('-', '')}"
    lines = [
        header_line("From", _mailbox(sender)),
        *_recipients(request),
        *([_reply_to(request.reply_to)] if request.reply_to else []),
        header_line("Subject", _words("Subject", request.subject)),
        header_line("Date", format_datetime(datetime.fromtimestamp(date // 1000, UTC))),
        header_line("Message-ID", message_id),
        *[header_line(name, value) for name, value in extra],
        *[header_line(name, _words(name, value)) for name, value in custom_headers(content, but=extra)],
        b"MIME-Version: 1.0\r\n",
    ]
    return b"".join(lines) + _body(content, boundary)


def header_line(name: str, value: str) -> bytes:
    """One header; whatever its value says, it is one header."""
    folded = "\r\n ".join(_CONTROLS.sub(" ", part) for part in value.split("\r\n "))
    return f"{name}: {folded}\r\n".encode("utf-8", "replace")


def needs_smtputf8(*addresses: str) -> bool:
    """Whether an address can't be written without SMTPUTF8 (RFC 6531): its local part is not ASCII."""
    return any(not address.rpartition("@")[0].isascii() for address in addresses)


def with_ascii_domain(address: str) -> str:
    """Return the address with its domain in ASCII, so that most need no SMTPUTF8; unchanged where it is no domain."""
    local, at, domain = _CONTROLS.sub("", address).strip().rpartition("@")
    if domain.isascii():
        return local + at + domain
    try:
        return local + at + to_ascii(domain)
    except InvalidDomain:
        return local + at + domain


# ------------------------------------------------------------------ headers
def _mailbox(mailbox: Mailbox) -> str:
    address = with_ascii_domain(mailbox.address)
    name = _CONTROLS.sub(" ", mailbox.name).strip()
    if not name:
        return address
    # A reader would decode what looks like an encoded word (RFC 2047 §5), also between quotes.
    if name.isascii() and "=?" not in name and len(name) <= _UNFOLDED_MAX_CHARS:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f"{name} <{address}>" if _ATOMS.match(name) else f'"{escaped}" <{address}>'
    return f"{_encoded('Reply-To', name)}\r\n <{address}>"


def _recipients(request: SendRequest) -> list[bytes]:
    """Whom the message names: all of them in each one's copy, and a bcc in nobody's."""
    shown = request.shown
    if shown is None:
        return [header_line("To", _mailbox(Mailbox(address=request.recipient, name=request.recipient_name)))]
    # A group without members (RFC 5322 §3.4): a message must name somebody to be no suspect.
    to = ",\r\n ".join(map(_mailbox, shown.to)) or "undisclosed-recipients:;"
    return [header_line("To", to), *([header_line("Cc", ",\r\n ".join(map(_mailbox, shown.cc)))] if shown.cc else [])]


def _reply_to(addresses: tuple[str, ...]) -> bytes:
    return header_line("Reply-To", ",\r\n ".join(with_ascii_domain(address) for address in addresses))


def custom_headers(content: MessageContent, but: MessageHeaders = ()) -> list[tuple[str, str]]:
    """The caller's own headers, without those that are ours to write: always, or this time."""
    ours = {name.lower() for name, _ in but}
    return [
        (name, value)
        for name, value in content.headers
        if _HEADER_NAME.match(name)
        and not _RESERVED_HEADERS.match(name)
        and not is_steering(name)
        and name.lower() not in ours
    ]


def printable_text(text: str) -> str:
    """Without control characters, and of whole characters."""
    return _CONTROLS.sub(" ", text).strip().encode("utf-8", "replace").decode()


def encode_one_line(name: str, value: str) -> str:
    """A header's value as ASCII on one line, for those who fold it themselves."""
    text = printable_text(value)
    return text if text.isascii() else _encoded(name, text).replace("\r\n ", " ")


def _words(name: str, text: str) -> str:
    text = _CONTROLS.sub(" ", text).strip()
    if text.isascii() and "=?" not in text and len(name) + 2 + len(text) <= _LINE_MAX_OCTETS:
        return text if len(text) <= _UNFOLDED_MAX_CHARS else _folded(text)
    return _encoded(name, text)


def _folded(text: str) -> str:
    """Breaks only at single spaces, so that unfolding gives the same text back."""
    lines = [""]
    for word in _SINGLE_SPACE.split(text):
        if len(lines[-1]) + len(word) > _UNFOLDED_MAX_CHARS and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "\r\n ".join(lines)


def _encoded(name: str, text: str) -> str:
    """RFC 2047 encoded words, each a whole number of characters, on lines of at most 76."""
    safe = text.encode("utf-8", "replace").decode()
    return Header(safe, "utf-8", header_name=name, maxlinelen=74).encode(linesep="\r\n", splitchars="")


# --------------------------------------------------------------------- body
def _body(content: MessageContent, boundary: str) -> bytes:
    inner = _alternatives(content, boundary)
    if not content.attachments:
        return inner
    parts = [inner, *[_attachment(attachment) for attachment in content.attachments]]
    return _multipart("mixed", parts, boundary + "_m")


def alternatives(content: MessageContent) -> list[tuple[str, str]]:
    """Plain first, richest last (RFC 2046 §5.1.4); AMP before HTML, as amp.dev asks for clients that show the last."""
    text = content.text or (text_of(content.html) if content.html else "")
    parts = [("plain", text)] if text or not content.html else []
    parts += [("x-amp-html", content.amp)] if content.amp else []
    return parts + ([("html", content.html)] if content.html else [])


def _alternatives(content: MessageContent, boundary: str) -> bytes:
    parts = alternatives(content)
    if len(parts) == 1:
        return _text(*parts[0], boundary)
    return _multipart("alternative", [_text(kind, body, boundary) for kind, body in parts], boundary)


def _multipart(kind: str, parts: list[bytes], boundary: str) -> bytes:
    head = f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"\r\n\r\n'.encode()
    mark = f"--{boundary}".encode()
    return head + b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def _text(kind: str, body: str, boundary: str) -> bytes:
    raw = _LINE_ENDS.sub(b"\r\n", body.encode("utf-8", "replace"))
    encoding, wire = _transfer(raw, boundary.encode())
    charset = "us-ascii" if encoding == "7bit" else "utf-8"
    head = f'Content-Type: text/{kind}; charset="{charset}"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + wire


def _transfer(raw: bytes, boundary: bytes) -> tuple[str, bytes]:
    plain = raw.isascii() and b"\0" not in raw and boundary not in raw
    if plain and max(map(len, raw.split(b"\r\n"))) <= _LINE_MAX_OCTETS:
        return "7bit", raw
    # Its soft line breaks are bare LF where the text has no CRLF of its own.
    quoted = _LINE_ENDS.sub(b"\r\n", binascii.b2a_qp(raw, istext=True))
    # Readable as long as it's mostly ASCII; else base64 is the shorter.
    if 3 * len(quoted) <= 5 * len(raw):
        return "quoted-printable", quoted
    return "base64", _base64(raw)


def media_type(attachment: Attachment) -> str:
    """What an attachment may be called."""
    media = attachment.media_type
    # A message or multipart must not be base64 (RFC 2046 §5.2.1), and a file's bytes must not change.
    if not _MEDIA_TYPE.match(media) or media.lower().startswith(("multipart/", "message/")):
        return "application/octet-stream"
    return media


def _attachment(attachment: Attachment) -> bytes:
    parameters = "".join(f";\r\n {parameter}" for parameter in _filename(attachment.filename))
    head = (
        f"Content-Type: {media_type(attachment)}\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment{parameters}\r\n\r\n"
    )
    return head.encode() + _base64(attachment.data)


def _filename(filename: str) -> list[str]:
    """Return the parameters that name a file, each short enough for a line (RFC 2231 §3)."""
    name = _CONTROLS.sub(" ", filename)
    if not name.strip():
        name = "attachment"
    if name.isascii() and "=?" not in name and len(name) <= _UNFOLDED_MAX_CHARS:
        return ['filename="' + name.replace("\\", "\\\\").replace('"', '\\"') + '"']
    # Whole characters, so that each piece can be decoded by itself.
    pieces = ["utf-8''"]
    for character in name:
        encoded = quote(character.encode("utf-8", "replace"), safe="")
        if len(pieces[-1]) + len(encoded) > _UNFOLDED_MAX_CHARS:
            pieces.append("")
        pieces[-1] += encoded
    if len(pieces) == 1:
        return [f"filename*={pieces[0]}"]
    return [f"filename*{number}*={piece}" for number, piece in enumerate(pieces)]


def _base64(raw: bytes) -> bytes:
    return base64.encodebytes(raw).replace(b"\n", b"\r\n")
