"""Parse requests of the email API's `POST /v1/Email/`, render their templates and encode `Results`. Pure.

`pipeline.gateway.routes.email_v1_send` calls it. Our interpretation where the API's document is silent:

- `token` needs `Token` and `NumPhotos`, `group` needs `GroupId`, `tokenAndGroup` all three; fields that
  a type doesn't use are ignored. `NumPhotos` is a whole number from -1 (unlimited) on.
- `purchase` is a type of listed emails only: a message of that type is refused.
- The content comes from the template ``{BrandId}.{Type}``; its variables are the message's fields.
- A message that is refused has `Error` and `Status`, and no `MessageId`; the others are accepted all the same.
"""

import re
from collections.abc import Mapping
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
"""A request with more is refused as a whole; below that, each one over the tenant's maximum gets its own error."""
MAX_RENDERED_BYTES: Final = 512_000_000
"""Memory that the rendered messages of one request may take."""
REQUIRED_FIELDS_BY_TYPE: Final = {
    "token": ("Token", "NumPhotos"),
    "group": ("GroupId",),
    "tokenAndGroup": ("Token", "GroupId", "NumPhotos"),
}
"""Fields that each type requires besides To and BrandId."""
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
    """The request; its messages are decoded one by one, so that a malformed one doesn't fail the others."""

    messages: list[msgspec.Raw]


class EmailV1Result(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The result of one message."""

    status: int
    message_id: str = ""
    error: str = ""


class EmailV1SendResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The answer; its results are in the order of the messages."""

    results: list[EmailV1Result]
    error: str = ""


class EmailV1SendCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A valid message, whose template is still to be found."""

    index: int
    recipient: str
    brand: str
    kind: str
    fields: dict[str, Any]

    @property
    def template_name(self) -> str:
        """Return the name of the message's template."""
        return f"{self.brand}.{self.kind}"


class EmailV1RenderedMessage(msgspec.Struct, frozen=True):
    """A message rendered from its template."""

    subject: str
    content: MessageContent
    ref: TemplateRef


_decode_request: Final = msgspec.json.Decoder(EmailV1SendRequest).decode
_decode_message: Final = msgspec.json.Decoder(EmailV1Message).decode
_encode: Final = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> tuple[int, list[EmailV1SendCommand], dict[int, EmailV1Result]]:
    """Return the number of messages, the valid ones, and a result by index for each other one.

    Raise Refused for a body that isn't a request at all.
    """
    check_value_count(body)
    messages = decode_json(_decode_request, body).messages
    if len(messages) > MAX_MESSAGES:
        raise Refused(f"more than {MAX_MESSAGES} messages", ".Messages")
    commands: list[EmailV1SendCommand] = []
    refusals: dict[int, EmailV1Result] = {}
    for index, raw in enumerate(messages):
        try:
            commands.append(_parse_message(index, raw))
        except Refused as refused:
            refusals[index] = item_error(index, 400, str(refused), refused.where)
    return len(messages), commands, refusals


def render_message(command: EmailV1SendCommand, template: Template | None, now: Millis) -> EmailV1RenderedMessage:
    """Return the message rendered from its template. Raise Refused, also if there is no template."""
    if template is None:
        raise Refused(
            f"this brand has no template for {command.kind}: "
            f"push one named {command.template_name} (`mailfold templates push`, or PUT /templates)"
        )
    rendered = render_template(template, "", template_variables(command), now=now)
    return EmailV1RenderedMessage(
        rendered.subject, MessageContent(html=rendered.html, text=rendered.text), rendered.ref
    )


def template_variables(command: EmailV1SendCommand) -> dict[str, Any]:
    """Return the variables of the message's template."""
    return {"To": command.recipient, "Type": command.kind, "BrandId": command.brand, **command.fields}


def encode_details(command: EmailV1SendCommand) -> msgspec.Raw:
    """Return the details that a listing shows besides To, Type and BrandId."""
    return msgspec.Raw(_encode(command.fields))


def item_error(index: int, status: int, error: str, where: str = "") -> EmailV1Result:
    """Return the result of a message that isn't accepted; the error begins with the message's path."""
    return EmailV1Result(status=status, error=f"Messages[{index}]{where}: {error}")


def encode_response(count: int, results: Mapping[int, EmailV1Result], error: str = "") -> bytes:
    """Return the answer's body; ``results`` has one for each index below ``count``."""
    return _encode(EmailV1SendResponse(results=[results[index] for index in range(count)], error=error))


def _parse_message(index: int, raw: msgspec.Raw) -> EmailV1SendCommand:
    """Return the command of one message. Raise Refused with the path inside the message."""
    message = _decode(raw)
    _refuse(address_problem(message.to), ".To")
    if message.type not in REQUIRED_FIELDS_BY_TYPE:
        types = ", ".join(REQUIRED_FIELDS_BY_TYPE)
        problem = "is known to the history only" if message.type == "purchase" else "is unknown"
        raise Refused(f"this type {problem}; one of {types}", ".Type")
    if not _UUID.fullmatch(message.brand_id):
        raise Refused("not a UUID", ".BrandId")
    optional = {"Token": message.token, "GroupId": message.group_id, "NumPhotos": message.num_photos}
    fields = {
        name: _require_field(name, optional[name], message.type) for name in REQUIRED_FIELDS_BY_TYPE[message.type]
    }
    return EmailV1SendCommand(
        index=index, recipient=message.to, brand=message.brand_id.lower(), kind=message.type, fields=fields
    )


def _decode(raw: msgspec.Raw) -> EmailV1Message:
    try:
        return _decode_message(raw)
    except msgspec.ValidationError as error:
        raise refusal_from_msgspec(str(error)) from None
    except RecursionError:
        raise Refused("nested too deeply") from None


def _require_field(name: str, value: str | int | None, kind: str) -> str | int:
    """Return the value of a field that this type of message requires. Raise Refused if it is missing or invalid."""
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
