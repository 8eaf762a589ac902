"""Encode a message as bytes (RFC 5322, MIME). Pure: the same input gives the same bytes. The transports call it.

It uses the standard library's encoders without its message objects, which parse every header and take ten times as long
for the same bytes. The tests read the result with the standard library. Lines are 7-bit and have at most 76 characters
(998 where the sender's own ASCII text has them), so that servers needn't support 8BITMIME; headers have UTF-8 only
where an address needs it.
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


def encode_message(message: OutgoingMessage) -> bytes:
    """Return the encoded message."""
    return encode_request(
        message.request,
        message.content,
        sender=message.sender,
        message_id=message.message_id,
        date=message.date,
        extra=message.extra_headers,
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
    """Return the encoded message; ``extra`` are headers that Mailfold adds, such as those for the provider."""
    boundary = f"=_mf_{request.email_id.replace('-', '')}"
    lines = [
        header_line("From", _mailbox_text(sender)),
        *_recipient_headers(request),
        *([_reply_to_header(request.reply_to)] if request.reply_to else []),
        header_line("Subject", _header_text("Subject", request.subject)),
        header_line("Date", format_datetime(datetime.fromtimestamp(date // 1000, UTC))),
        header_line("Message-ID", message_id),
        *[header_line(name, value) for name, value in extra],
        *[header_line(name, _header_text(name, value)) for name, value in custom_headers(content, but=extra)],
        b"MIME-Version: 1.0\r\n",
    ]
    return b"".join(lines) + _encode_body(content, boundary)


def header_line(name: str, value: str) -> bytes:
    """Return one header; line breaks in the value other than folds are replaced, so that it can't become two."""
    folded = "\r\n ".join(_CONTROLS.sub(" ", part) for part in value.split("\r\n "))
    return f"{name}: {folded}\r\n".encode("utf-8", "replace")


def needs_smtputf8(*addresses: str) -> bool:
    """Return whether an address needs SMTPUTF8 (RFC 6531) because its local part is not ASCII."""
    return any(not address.rpartition("@")[0].isascii() for address in addresses)


def with_ascii_domain(address: str) -> str:
    """Return the address with its domain in ASCII, so that most need no SMTPUTF8; an invalid domain stays."""
    local, at, domain = _CONTROLS.sub("", address).strip().rpartition("@")
    if domain.isascii():
        return local + at + domain
    try:
        return local + at + to_ascii(domain)
    except InvalidDomain:
        return local + at + domain


# ------------------------------------------------------------------ headers
def _mailbox_text(mailbox: Mailbox) -> str:
    """Return a mailbox as headers write it, folded where the name needs encoded words."""
    address = with_ascii_domain(mailbox.address)
    name = _CONTROLS.sub(" ", mailbox.name).strip()
    if not name:
        return address
    # Mail clients decode what looks like an encoded word (RFC 2047 §5), even between quotes.
    if name.isascii() and "=?" not in name and len(name) <= _UNFOLDED_MAX_CHARS:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f"{name} <{address}>" if _ATOMS.match(name) else f'"{escaped}" <{address}>'
    return f"{_encoded_words('Reply-To', name)}\r\n <{address}>"


def _recipient_headers(request: SendRequest) -> list[bytes]:
    """Return To and Cc: each recipient's copy names all visible recipients and no bcc."""
    visible = request.shown
    if visible is None:
        return [header_line("To", _mailbox_text(Mailbox(address=request.recipient, name=request.recipient_name)))]
    # A group without members (RFC 5322 §3.4): spam filters distrust a message without recipients.
    to = ",\r\n ".join(map(_mailbox_text, visible.to)) or "undisclosed-recipients:;"
    return [
        header_line("To", to),
        *([header_line("Cc", ",\r\n ".join(map(_mailbox_text, visible.cc)))] if visible.cc else []),
    ]


def _reply_to_header(addresses: tuple[str, ...]) -> bytes:
    return header_line("Reply-To", ",\r\n ".join(with_ascii_domain(address) for address in addresses))


def custom_headers(content: MessageContent, but: MessageHeaders = ()) -> list[tuple[str, str]]:
    """Return the caller's own headers without those that only Mailfold writes, always or, in ``but``, this time."""
    excluded = {name.lower() for name, _ in but}
    return [
        (name, value)
        for name, value in content.headers
        if _HEADER_NAME.match(name)
        and not _RESERVED_HEADERS.match(name)
        and not is_steering(name)
        and name.lower() not in excluded
    ]


def printable_text(text: str) -> str:
    """Return the text without control characters and lone surrogates."""
    return _CONTROLS.sub(" ", text).strip().encode("utf-8", "replace").decode()


def encode_one_line(name: str, value: str) -> str:
    """Return a header's value as ASCII on one line, for provider APIs that fold it themselves."""
    text = printable_text(value)
    return text if text.isascii() else _encoded_words(name, text).replace("\r\n ", " ")


def _header_text(name: str, text: str) -> str:
    """Return the value of a text header, folded, or as encoded words if it can't be written as ASCII."""
    text = _CONTROLS.sub(" ", text).strip()
    if text.isascii() and "=?" not in text and len(name) + 2 + len(text) <= _LINE_MAX_OCTETS:
        return text if len(text) <= _UNFOLDED_MAX_CHARS else _folded(text)
    return _encoded_words(name, text)


def _folded(text: str) -> str:
    """Return the text broken at single spaces only, so that unfolding gives the same text."""
    lines = [""]
    for word in _SINGLE_SPACE.split(text):
        if len(lines[-1]) + len(word) > _UNFOLDED_MAX_CHARS and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "\r\n ".join(lines)


def _encoded_words(name: str, text: str) -> str:
    """Return the text as RFC 2047 encoded words, each of whole characters, on lines of at most 76 characters."""
    safe = text.encode("utf-8", "replace").decode()
    return Header(safe, "utf-8", header_name=name, maxlinelen=74).encode(linesep="\r\n", splitchars="")


# --------------------------------------------------------------------- body
def _encode_body(content: MessageContent, boundary: str) -> bytes:
    alternatives_part = _encode_alternatives(content, boundary)
    if not content.attachments:
        return alternatives_part
    parts = [alternatives_part, *[_encode_attachment(attachment) for attachment in content.attachments]]
    return _encode_multipart("mixed", parts, boundary + "_m")


def alternatives(content: MessageContent) -> list[tuple[str, str]]:
    """Return subtype and text of each text part, plain first and richest last (RFC 2046 §5.1.4).

    AMP is before HTML, as amp.dev asks, for clients that show the last part.
    """
    text = content.text or (text_of(content.html) if content.html else "")
    parts = [("plain", text)] if text or not content.html else []
    parts += [("x-amp-html", content.amp)] if content.amp else []
    return parts + ([("html", content.html)] if content.html else [])


def _encode_alternatives(content: MessageContent, boundary: str) -> bytes:
    parts = alternatives(content)
    if len(parts) == 1:
        return _encode_text(*parts[0], boundary)
    return _encode_multipart("alternative", [_encode_text(kind, body, boundary) for kind, body in parts], boundary)


def _encode_multipart(kind: str, parts: list[bytes], boundary: str) -> bytes:
    head = f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"\r\n\r\n'.encode()
    delimiter = f"--{boundary}".encode()
    return head + b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


def _encode_text(kind: str, body: str, boundary: str) -> bytes:
    raw = _with_crlf(body.encode("utf-8", "replace"))
    encoding, encoded = _transfer_encode(raw, boundary.encode())
    charset = "us-ascii" if encoding == "7bit" else "utf-8"
    head = f'Content-Type: text/{kind}; charset="{charset}"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + encoded


def _transfer_encode(raw: bytes, boundary: bytes) -> tuple[str, bytes]:
    """Return the content transfer encoding of a text and the encoded text."""
    is_plain = raw.isascii() and b"\0" not in raw and boundary not in raw
    if is_plain and max(map(len, raw.split(b"\r\n"))) <= _LINE_MAX_OCTETS:
        return "7bit", raw
    # The encoder's soft line breaks are LF if the text has no CRLF.
    quoted = _with_crlf(binascii.b2a_qp(raw, istext=True))
    # Quoted-printable is readable and short for mostly ASCII texts; base64 is shorter for others.
    if 3 * len(quoted) <= 5 * len(raw):
        return "quoted-printable", quoted
    return "base64", _base64(raw)


def _with_crlf(raw: bytes) -> bytes:
    """Return the bytes with each CRLF, CR and LF as CRLF. Three replacements take a tenth of a pattern's time."""
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def media_type(attachment: Attachment) -> str:
    """Return the attachment's media type, or application/octet-stream if it can't be used."""
    name = attachment.media_type
    # A message or multipart must not be base64 (RFC 2046 §5.2.1), and a file's bytes must not change.
    if not _MEDIA_TYPE.match(name) or name.lower().startswith(("multipart/", "message/")):
        return "application/octet-stream"
    return name


def _encode_attachment(attachment: Attachment) -> bytes:
    parameters = "".join(f";\r\n {parameter}" for parameter in _filename_parameters(attachment.filename))
    head = (
        f"Content-Type: {media_type(attachment)}\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment{parameters}\r\n\r\n"
    )
    return head.encode() + _base64(attachment.data)


def _filename_parameters(filename: str) -> list[str]:
    """Return the parameters that name a file, each short enough for a line (RFC 2231 §3)."""
    name = _CONTROLS.sub(" ", filename)
    if not name.strip():
        name = "attachment"
    if name.isascii() and "=?" not in name and len(name) <= _UNFOLDED_MAX_CHARS:
        return ['filename="' + name.replace("\\", "\\\\").replace('"', '\\"') + '"']
    # Each piece has whole characters, because clients may decode it by itself.
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
