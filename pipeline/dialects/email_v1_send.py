"""`POST /v1/Email/`: a request's bytes in, wishes and faults out; outcomes in, `Results` out. Pure.

The document is silent here and there; what we read into it:

- `token` needs `Token` and `NumPhotos`, `group` needs `GroupId`, `tokenAndGroup` all three; fields that
  a type doesn't use are ignored. `NumPhotos` is a whole number from -1 (unlimited) on.
- `purchase` is a type of the history only: a message of that type is refused.
- What is said comes from the template ``{BrandId}.{Type}``; its variables are the message's fields.
- A message that can't be taken has `Error` and `Status`, and no `MessageId`; the others go on.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.content.addresses import address_problem
from pipeline.content.templates import render_template
from pipeline.dialects.raw_json import check_value_count, decode_json, refusal_from_msgspec
from pipeline.errors import Refused
from topics.contents import MessageContent
from topics.record import Millis
from topics.templates import Template, TemplateRef

DIALECT: Final = "email_v1"
FIELD_MAX_CHARS: Final = 1_000
MAX_MESSAGES: Final = 100_000
"""Messages of one request. Those over the tenant's batch maximum are answered one by one, up to this number."""
MAX_RENDERED_BYTES: Final = 512_000_000
"""Bytes that are rendered for one request, as memory holds them."""
REQUIRED_FIELDS_BY_TYPE: Final = {
    "token": ("Token", "NumPhotos"),
    "group": ("GroupId",),
    "tokenAndGroup": ("Token", "GroupId", "NumPhotos"),
}
"""What each type needs beside To and BrandId."""
UNLIMITED_PHOTOS: Final = -1
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CONTROL_CHAR: Final = re.compile(r"[\x00-\x1f\x7f]")


class EmailV1Message(msgspec.Struct, frozen=True, rename="pascal"):
    """One message, field by field as documented."""

    to: Annotated[str, Meta(description="Email address to send to.", extra_json_schema={"format": "email"})]
    type: Annotated[str, Meta(extra_json_schema={"enum": ["tokenAndGroup", "group", "token"]})]
    brand_id: Annotated[
        str, Meta(description="The Brand this email is sent from.", extra_json_schema={"format": "uuid"})
    ]
    token: Annotated[str | None, Meta(description="token, tokenAndGroup: a purchase token.")] = None
    group_id: Annotated[str | None, Meta(description="group, tokenAndGroup: where to direct the customer.")] = None
    num_photos: Annotated[int | None, Meta(description="token, tokenAndGroup: how many; -1 is unlimited.")] = None


class EmailV1SendRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """The request; messages are read one by one, so that one that can't be read fails alone."""

    messages: list[msgspec.Raw]


class EmailV1Result(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """What became of one message."""

    status: int
    message_id: str = ""
    error: str = ""


class EmailV1SendResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """In the order of the messages."""

    results: list[EmailV1Result]
    error: str = ""


class EmailV1SendCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A message that can be sent, once its template is found."""

    index: int
    recipient: str
    brand: str
    kind: str
    fields: dict[str, Any]

    @property
    def template_name(self) -> str:
        """The name of its template."""
        return f"{self.brand}.{self.kind}"


class EmailV1RenderedMessage(msgspec.Struct, frozen=True):
    """What a wish's template says."""

    subject: str
    content: MessageContent
    ref: TemplateRef


_decode_request: Final = msgspec.json.Decoder(EmailV1SendRequest).decode
_decode_message: Final = msgspec.json.Decoder(EmailV1Message).decode
_encode: Final = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> tuple[int, list[EmailV1SendCommand], dict[int, EmailV1Result]]:
    """Return the number of messages, the wishes, and a result for each that is none. Raise Refused for no request."""
    check_value_count(body)
    messages = decode_json(_decode_request, body).messages
    if len(messages) > MAX_MESSAGES:
        raise Refused(f"more than {MAX_MESSAGES} messages", ".Messages")
    wishes: list[EmailV1SendCommand] = []
    faults: dict[int, EmailV1Result] = {}
    for index, raw in enumerate(messages):
        try:
            wishes.append(_wish(index, raw))
        except Refused as refused:
            faults[index] = item_error(index, 400, str(refused), refused.where)
    return len(messages), wishes, faults


def render_message(wish: EmailV1SendCommand, template: Template | None, now: Millis) -> EmailV1RenderedMessage:
    """The wish in its template's words. Raises Refused."""
    if template is None:
        raise Refused(
            f"this brand has no template for {wish.kind}: "
            f"push one named {wish.template_name} (`mailfold templates push`, or PUT /templates)"
        )
    made = render_template(template, "", template_variables(wish), now=now)
    return EmailV1RenderedMessage(made.subject, MessageContent(html=made.html, text=made.text), made.ref)


def template_variables(wish: EmailV1SendCommand) -> dict[str, Any]:
    """What its template may speak of."""
    return {"To": wish.recipient, "Type": wish.kind, "BrandId": wish.brand, **wish.fields}


def encode_details(wish: EmailV1SendCommand) -> msgspec.Raw:
    """What the history gives back beside To, Type and BrandId."""
    return msgspec.Raw(_encode(wish.fields))


def item_error(index: int, status: int, error: str, where: str = "") -> EmailV1Result:
    """A message that isn't taken; the error begins with its path."""
    return EmailV1Result(status=status, error=f"Messages[{index}]{where}: {error}")


def encode_response(count: int, results: Mapping[int, EmailV1Result], error: str = "") -> bytes:
    """The answer's body."""
    return _encode(EmailV1SendResponse(results=[results[index] for index in range(count)], error=error))


def error_statuses(results: Iterable[EmailV1Result]) -> list[int]:
    """The statuses of what wasn't taken."""
    return [result.status for result in results if result.error]


def _wish(index: int, raw: msgspec.Raw) -> EmailV1SendCommand:
    message = _read(raw)
    _refuse(address_problem(message.to), ".To")
    if message.type not in REQUIRED_FIELDS_BY_TYPE:
        known = ", ".join(REQUIRED_FIELDS_BY_TYPE)
        what = "is known to the history only" if message.type == "purchase" else "is unknown"
        raise Refused(f"this type {what}; one of {known}", ".Type")
    if not _UUID.fullmatch(message.brand_id):
        raise Refused("not a UUID", ".BrandId")
    given = {"Token": message.token, "GroupId": message.group_id, "NumPhotos": message.num_photos}
    fields = {name: _needed(name, given[name], message.type) for name in REQUIRED_FIELDS_BY_TYPE[message.type]}
    return EmailV1SendCommand(
        index=index, recipient=message.to, brand=message.brand_id.lower(), kind=message.type, fields=fields
    )


def _read(raw: msgspec.Raw) -> EmailV1Message:
    try:
        return _decode_message(raw)
    except msgspec.ValidationError as error:
        raise refusal_from_msgspec(str(error)) from None
    except RecursionError:
        raise Refused("nested too deeply") from None


def _needed(name: str, value: str | int | None, kind: str) -> str | int:
    if value is None or value == "":
        raise Refused(f"missing; {kind} needs it", f".{name}")
    if isinstance(value, int):
        if not UNLIMITED_PHOTOS <= value < 2**63:
            raise Refused("a whole number from -1 (unlimited) on", f".{name}")
        return value
    _refuse(f"more than {FIELD_MAX_CHARS} characters" if len(value) > FIELD_MAX_CHARS else None, f".{name}")
    _refuse("a control character" if _CONTROL_CHAR.search(value) else None, f".{name}")
    return value


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise Refused(problem, where)
