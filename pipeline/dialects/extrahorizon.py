"""Parse requests of Extra Horizon's mail service and encode its answers. Pure.

`pipeline.gateway.routes.extrahorizon` calls it. The service's document shows no JSON. Our interpretation, mostly from
the types and tests of the official SDK:

- Names in JSON are snake_case, timestamps are milliseconds, errors are ``{code, name, message}``.
- ``body`` of a plain mail is its text; beside a template it is the text part for clients without HTML.
- An address that is named several times gets one email, as the first of its names says.
- ``filename`` (the document) and ``name`` (the SDK) of an attachment mean the same.

Parsing takes linear time: the sizes of a request's parts are checked before any of them is decoded, and addresses are
split without regular expressions.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipeline.content.addresses import ADDRESS_MAX_OCTETS, HEADER_TEXT_MAX_CHARS, address_problem, header_text_problem
from pipeline.content.chunks import MAX_PART_BYTES
from pipeline.dialects.raw_json import FIELD_MISSING, decode_json, nesting_depth
from pipeline.errors import Refused
from topics.contents import Attachment
from topics.record import Millis
from topics.requests import HeaderRecipients, Mailbox

DIALECT: Final = "extrahorizon"
MAX_RECIPIENTS: Final = 50
MESSAGE_MAX_BYTES: Final = 10 * 1024 * 1024
"""Bytes of a message with its attachments in base64: Amazon SES's limit."""
STORED_MAIL_MAX_BYTES: Final = 200_000
"""Bytes of the stored mail object, which is part of several records of the email."""
STORED_PART_JSON_MAX_BYTES: Final = 6 * STORED_MAIL_MAX_BYTES
"""Bytes of JSON of one stored part; JSON may write one byte as six (``\\u0061``)."""
CONTENT_MAX_DEPTH: Final = 32
FILE_NAME_MAX_CHARS: Final = 255
MAILBOX_MAX_CHARS: Final = ADDRESS_MAX_OCTETS + HEADER_TEXT_MAX_CHARS + 8
"""Characters of an address and a name, with the brackets, quotes and spaces between them."""
ADDRESSES_MAX_BYTES: Final = MAX_RECIPIENTS * 6 * MAILBOX_MAX_CHARS
"""Bytes of JSON that lists addresses; one character takes up to six bytes there (``\\u00e4``)."""
DEFAULT_MEDIA_TYPE: Final = "application/octet-stream"

ERROR_CODES: Final = {
    1: (500, "SERVER_EXCEPTION"),
    4: (503, "SERVICE_UNREACHABLE_EXCEPTION"),
    10: (403, "NO_PERMISSION_EXCEPTION"),
    13: (400, "EMPTY_BODY_EXCEPTION"),
    14: (400, "MISSING_REQUIRED_FIELDS_EXCEPTION"),
    15: (400, "FIELD_FORMAT_EXCEPTION"),
    16: (404, "RESOURCE_UNKNOWN_EXCEPTION"),
    17: (409, "RESOURCE_ALREADY_EXISTS_EXCEPTION"),
    19: (400, "INVALID_RQL_EXCEPTION"),
    21: (401, "LONG_QUERY_EXCEPTION"),
    22: (400, "BODY_FORMAT_EXCEPTION"),
    26: (400, "ILLEGAL_ARGUMENT_EXCEPTION"),
    104: (401, "USER_NOT_AUTHENTICATED_EXCEPTION"),
    117: (401, "ACCESS_TOKEN_UNKNOWN_EXCEPTION"),
    118: (401, "ACCESS_TOKEN_EXPIRED_EXCEPTION"),
    1002: (400, "LOCALIZATION_KEY_MISSING_EXCEPTION"),
    1003: (400, "TEMPLATE_FILLING_EXCEPTION"),
}
"""HTTP status and name of each of the service's error codes."""
_CODE_BY_STATUS: Final = {400: 26, 401: 104, 403: 10, 404: 16, 408: 4, 409: 17, 429: 4, 500: 1, 502: 4, 503: 4, 504: 4}
"""Error code of each HTTP status; for 429 it is 4, whose class in the SDK says that a repeat may succeed."""
T = TypeVar("T")
_WHITESPACE: Final = re.compile(r"[ \t\r\n]+")


class ExtraHorizonRefused(Refused):
    """A request that is refused with one of the service's error codes."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ExtraHorizonRecipients(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The recipients of a mail: 1 to 50 in all."""

    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()


class ExtraHorizonAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment of a request."""

    content: Annotated[str, Meta(description="Base64")]
    filename: str | None = None
    name: str | None = None
    type: str | None = None


class ExtraHorizonSendRequest(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A mail to send: plain (subject and body) or by a template."""

    recipients: ExtraHorizonRecipients
    subject: str | None = None
    body: str | None = None
    template_id: str | None = None
    template_name: str | None = None
    language: Annotated[str, Meta(max_length=35)] | None = None
    time_zone: Annotated[str, Meta(max_length=64)] | None = None
    content: msgspec.Raw | UnsetType = UNSET
    from_: str | None = None
    reply_to: tuple[str, ...] | str | None = None
    attachments: tuple[ExtraHorizonAttachment, ...] | None = None


class _LargeParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a request that may be large, not decoded yet."""

    recipients: msgspec.Raw = msgspec.Raw()
    reply_to: msgspec.Raw = msgspec.Raw()
    subject: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()


class ExtraHorizonMail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """A mail as it is stored and shown."""

    id: str
    creator_id: str
    subject: str
    recipients: ExtraHorizonRecipients
    from_: str
    creation_timestamp: Millis
    reply_to: tuple[str, ...] = ()
    body: str | None = None
    template_id: str | None = None
    template_name: str | None = None
    language: str | None = None
    time_zone: str | None = None
    content: msgspec.Raw | UnsetType = UNSET
    aws_message_id: str | None = None
    views: int | UnsetType = UNSET
    update_timestamp: Millis | UnsetType = UNSET


class ExtraHorizonProblem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an error."""

    code: int
    name: str
    message: str


class ExtraHorizonSendCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A valid mail; if it names a template, that is rendered later."""

    send: ExtraHorizonSendRequest
    recipient_addresses: tuple[str, ...]
    """Each distinct address of to, cc and bcc, in their order."""
    visible_recipients: HeaderRecipients
    sender: Mailbox | None
    reply_to: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    template: str
    """The template's id or name; empty for a plain mail."""
    values: dict[str, Any]


_decode_large_parts: Final = msgspec.json.Decoder(_LargeParts).decode
_decode_request: Final = msgspec.json.Decoder(ExtraHorizonSendRequest).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> ExtraHorizonSendCommand:
    """Return the mail to send. Raise ExtraHorizonRefused."""
    if not body.strip():
        raise ExtraHorizonRefused(13, "the request body is empty")
    _check_part_sizes(_decode(_decode_large_parts, body))
    send = _decode(_decode_request, body)
    addresses = _distinct_addresses(send.recipients)
    return ExtraHorizonSendCommand(
        send=send,
        recipient_addresses=addresses,
        visible_recipients=HeaderRecipients(to=_mailboxes(send.recipients.to), cc=_mailboxes(send.recipients.cc)),
        sender=None if send.from_ is None else _parse_mailbox(send.from_, "from"),
        reply_to=_reply_to_addresses(send.reply_to),
        attachments=_attachments(send.attachments or ()),
        template=_template_name(send),
        values=_template_values(send.content),
    )


def check_size(command: ExtraHorizonSendCommand, *texts: str) -> None:
    """Raise ExtraHorizonRefused if the message with its rendered texts is larger than providers accept."""
    # Base64 has four characters for three bytes, and a line end after 76 of them.
    files = sum(len(file.data) * 4 // 3 * 78 // 76 for file in command.attachments)
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    if max(sizes, default=0) > MAX_PART_BYTES:
        raise ExtraHorizonRefused(26, f"a text has {max(sizes)} bytes; at most {MAX_PART_BYTES} can be sent")
    size = files + sum(sizes)
    if size > MESSAGE_MAX_BYTES:
        raise ExtraHorizonRefused(
            26, f"the message has {size} bytes; at most {MESSAGE_MAX_BYTES} (10 MB) can be sent, attachments included"
        )


def encode_stored_mail(mail: ExtraHorizonMail) -> msgspec.Raw:
    """Return the JSON of a mail as it is stored. Raise ExtraHorizonRefused if it is too large."""
    raw = _encode(mail)
    if len(raw) > STORED_MAIL_MAX_BYTES:
        raise ExtraHorizonRefused(
            26,
            f"subject, body and content have {len(raw)} bytes; at most {STORED_MAIL_MAX_BYTES} are kept. "
            "Attach the rest",
        )
    # The content is stored separately, once for each recipient.
    return msgspec.Raw(_encode(msgspec.structs.replace(mail, content=UNSET)))


def encode_accepted_mail(mail: ExtraHorizonMail) -> bytes:
    """Return the JSON of a mail that was just accepted."""
    return _encode(msgspec.structs.replace(mail, views=0, update_timestamp=mail.creation_timestamp))


def encode_problem(refused: ExtraHorizonRefused) -> bytes:
    """Return the JSON of an error."""
    return _encode(ExtraHorizonProblem(code=refused.code, name=ERROR_CODES[refused.code][1], message=str(refused)))


def encode_error(status: int, error: str, where: str) -> bytes:
    """Return the JSON of an error that was raised outside this dialect, by its HTTP status."""
    return encode_problem(ExtraHorizonRefused(_CODE_BY_STATUS.get(status, 26), f"{where}: {error}" if where else error))


# ------------------------------------------------------------- the request
def _check_part_sizes(parts: _LargeParts) -> None:
    """Raise ExtraHorizonRefused for a part that is too large, before it is decoded."""
    for name in ("recipients", "reply_to"):
        if (size := _size(getattr(parts, name))) > ADDRESSES_MAX_BYTES:
            raise ExtraHorizonRefused(15, f"{name}: {size} bytes; at most {MAX_RECIPIENTS} addresses can be given")
    for name in ("subject", "body", "content"):
        if (size := _size(getattr(parts, name))) > STORED_PART_JSON_MAX_BYTES:
            raise ExtraHorizonRefused(
                26, f"{name} has {size} bytes; at most {STORED_MAIL_MAX_BYTES} are kept. Attach the rest"
            )


def _size(raw: msgspec.Raw) -> int:
    return memoryview(raw).nbytes


def _decode(decode: Callable[[bytes], T], body: bytes) -> T:
    """Return the body as the decoder's type. Raise ExtraHorizonRefused."""
    try:
        return decode_json(decode, body)
    except Refused as refused:
        raise _with_error_code(refused) from None


def _with_error_code(refused: Refused) -> ExtraHorizonRefused:
    """Return a decoder's refusal with the code of a missing field, of a wrong type, or of a malformed body."""
    where = refused.where.lstrip(".")
    if str(refused) == FIELD_MISSING:
        return ExtraHorizonRefused(14, f"{where}: missing")
    if refused.where.startswith("."):
        return ExtraHorizonRefused(15, f"{where}: {refused}")
    return ExtraHorizonRefused(22, f"{where}: {refused}")


def _distinct_addresses(recipients: ExtraHorizonRecipients) -> tuple[str, ...]:
    entries = [
        (kind, index, text) for kind in ("to", "cc", "bcc") for index, text in enumerate(getattr(recipients, kind))
    ]
    if not 1 <= len(entries) <= MAX_RECIPIENTS:
        raise ExtraHorizonRefused(15, f"recipients: {len(entries)} in all; 1 to {MAX_RECIPIENTS} can be written to")
    return tuple({_parse_mailbox(text, f"recipients.{kind}[{index}]").address: None for kind, index, text in entries})


def _mailboxes(texts: Iterable[str]) -> tuple[Mailbox, ...]:
    """Return the mailboxes, each distinct address once."""
    mailboxes = (_parse_mailbox(text, "recipients") for text in texts)
    return tuple({mailbox.address: mailbox for mailbox in mailboxes}.values())


def _parse_mailbox(text: str, where: str) -> Mailbox:
    """Return the mailbox of ``a@b.example`` or ``Anna <a@b.example>``. Raise ExtraHorizonRefused."""
    if len(text) > MAILBOX_MAX_CHARS:
        raise ExtraHorizonRefused(15, f"{where}: more than {MAILBOX_MAX_CHARS} characters")
    name, address = _split_mailbox(text)
    for problem in (address_problem(address, smtputf8=True), _header_problem(name)):
        if problem:
            raise ExtraHorizonRefused(15, f"{where}: {problem}")
    return Mailbox(address=address, name=name)


def _header_problem(text: str, max_chars: int = HEADER_TEXT_MAX_CHARS) -> str | None:
    """Return why a text can't be used in a header, or None; the length is checked before anything that costs time."""
    return f"more than {max_chars} characters" if len(text) > max_chars else header_text_problem(text)


def _split_mailbox(text: str) -> tuple[str, str]:
    """Return name and address; a text that is not ``name <address>`` is returned as the address."""
    name, bracket, address = text.strip().partition("<")
    if not bracket or not address.endswith(">") or ">" in name or "<" in address:
        return "", text
    return name.strip().strip('"'), address[:-1]


def _reply_to_addresses(reply_to: Sequence[str] | str | None) -> tuple[str, ...]:
    texts = (reply_to,) if isinstance(reply_to, str) else reply_to or ()
    if len(texts) > MAX_RECIPIENTS:
        raise ExtraHorizonRefused(15, f"reply_to: at most {MAX_RECIPIENTS}")
    return tuple(_parse_mailbox(text, f"reply_to[{index}]").address for index, text in enumerate(texts))


def _template_name(send: ExtraHorizonSendRequest) -> str:
    """Return the id or name of the template, empty for a plain mail. Raise ExtraHorizonRefused for both or neither."""
    template = send.template_id or send.template_name or ""
    if send.template_id and send.template_name:
        raise ExtraHorizonRefused(26, "template_id and template_name: give one of them")
    if template:
        if send.subject is not None:
            raise ExtraHorizonRefused(26, "the subject is the template's; give a subject, or a template")
        return template
    for name, text in (("subject", send.subject), ("body", send.body)):
        if text is None:
            raise ExtraHorizonRefused(14, f"{name}: missing; or give a template_id")
    if problem := _header_problem(send.subject or ""):
        raise ExtraHorizonRefused(15, f"subject: {problem}")
    return ""


def _template_values(raw: msgspec.Raw | UnsetType) -> dict[str, Any]:
    if isinstance(raw, UnsetType) or bytes(raw) == b"null":
        return {}
    if nesting_depth(bytes(raw), CONTENT_MAX_DEPTH) > CONTENT_MAX_DEPTH:
        raise ExtraHorizonRefused(15, f"content: nested more than {CONTENT_MAX_DEPTH} deep")
    try:
        return decode_json(_decode_object, bytes(raw))
    except Refused as refused:
        raise ExtraHorizonRefused(
            15, f"content{refused.where if refused.where.startswith('.') else ''}: {refused}"
        ) from None


def _attachments(files: Sequence[ExtraHorizonAttachment]) -> tuple[Attachment, ...]:
    return tuple(_parse_attachment(file, f"attachments[{index}]") for index, file in enumerate(files))


def _parse_attachment(file: ExtraHorizonAttachment, where: str) -> Attachment:
    name = file.filename if file.filename is not None else file.name
    if not name:
        raise ExtraHorizonRefused(14, f"{where}.filename: missing")
    if problem := _header_problem(name, FILE_NAME_MAX_CHARS):
        raise ExtraHorizonRefused(15, f"{where}.filename: {problem}")
    if problem := _header_problem(file.type or ""):
        raise ExtraHorizonRefused(15, f"{where}.type: {problem}")
    try:
        data = base64.b64decode(_WHITESPACE.sub("", file.content), validate=True)
    except (binascii.Error, ValueError):
        raise ExtraHorizonRefused(15, f"{where}.content: not base64") from None
    return Attachment(filename=name, media_type=file.type or DEFAULT_MEDIA_TYPE, data=data)
