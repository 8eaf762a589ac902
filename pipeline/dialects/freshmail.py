"""Parse FreshMail's `POST /v3/messaging/emails` and encode its answers. Pure.

`pipeline.gateway.routes.freshmail` calls it; :mod:`pipeline.dialects.freshmail_render` makes the emails. A request is
taken as a whole or refused as a whole: all recipients are validated before the first email is accepted. Our
interpretation where FreshMail's document is silent:

- `errors` is a list of texts where no field is meant (the body is no JSON, or no object), and an object by path
  (`Recipients[1].email`) everywhere else. The document's own example is an array of pairs, which is not JSON.
- `replyTo`, an object of `email` and `name`, is in the official client and not in the document.
- The subject is personalized like the contents; beside a template, the subject of the request is used.
- ``[]`` stands for an empty object, because PHP encodes an empty array so.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.content.addresses import address_problem, header_text_problem
from pipeline.content.header_names import NAME_MAX_CHARS, is_custom_name, is_steering
from pipeline.dialects.json_fields import field_problems
from pipeline.dialects.raw_json import FIELD_MISSING, check_limits, decode_json
from pipeline.errors import Refused

DIALECT: Final = "freshmail"
MAX_RECIPIENTS: Final = 100
MAX_HEADERS: Final = 50
PERSONALIZATION_MAX_BYTES: Final = 65_536
"""Bytes of one recipient's personalization, which is stored with the email's record."""
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 200_000
"""Values of a whole request: 2,000 for each recipient."""
MAX_ERRORS: Final = 1_000
NOT_AN_ADDRESS: Final = "This value is not a valid email address."
"""The text in FreshMail's document."""
HTML_TYPE: Final = "text/html"
PLAIN_TYPE: Final = "text/plain"
_NAME_RULE: Final = f"The name of a custom header is X- and letters, digits or marks; at most {NAME_MAX_CHARS}."
_STEERING_RULE: Final = (
    "Headers of this name are orders to a sending service, or are written by mail servers or Mailfold."
)
_FILENAME: Final = re.compile(r"[^/\\]{1,255}")
_CONTENT_SOURCE_RULE: Final = "Exactly one of templateHash and contents must be given."
_PLACEHOLDER_FIELDS: Final = {"recipients": [], "from": {"name": "", "email": "sender@example.com"}, "subject": ""}
"""Values for required fields that are missing or malformed, so that the remaining fields can be validated."""
_UNNAMED_KEY: Final = "[...]"
_PATH_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")

_EmptyList = Annotated[list[Any], Meta(max_length=0)]


class FreshMailRecipient(msgspec.Struct, frozen=True):
    """One recipient."""

    email: Annotated[str, Meta(description="The recipient's address", extra_json_schema={"format": "email"})]
    name: Annotated[str | None, Meta(description="The display name of the recipient")] = None
    personalization: dict[str, Any] | _EmptyList | None = None
    headers: dict[str, str] | _EmptyList | None = None


class FreshMailFrom(msgspec.Struct, frozen=True):
    """The sender."""

    name: Annotated[str, Meta(description="The display name of the sender")]
    email: Annotated[str, Meta(description="The sender's address", extra_json_schema={"format": "email"})]


class FreshMailReplyTo(msgspec.Struct, frozen=True):
    """The address for replies."""

    email: Annotated[str, Meta(description="The address", extra_json_schema={"format": "email"})]
    name: Annotated[str | None, Meta(description="Accepted and ignored")] = None


class FreshMailBody(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """One body of the message: HTML or plain text."""

    kind: Annotated[str, Meta(extra_json_schema={"enum": ["text/html", "text/plain"]})]
    body: Annotated[
        str,
        Meta(description="With $$name$$ or Twig's {{ name }} for personalization", extra_json_schema={"minLength": 1}),
    ]


class FreshMailFile(msgspec.Struct, frozen=True):
    """An attached file."""

    name: Annotated[str, Meta(description="File name with extension")]
    content: Annotated[str, Meta(description="Base64")]


_FIELD_RENAMES: Final = {"sender": "from", "template_hash": "templateHash", "reply_to": "replyTo"}


class FreshMailRequest(msgspec.Struct, frozen=True, rename=_FIELD_RENAMES):
    """The request, field by field as documented; unknown fields are ignored."""

    recipients: Annotated[
        list[FreshMailRecipient], Meta(description="1 to 100", extra_json_schema={"minItems": 1, "maxItems": 100})
    ]
    sender: FreshMailFrom
    subject: Annotated[str, Meta(description="Subject, personalized like the contents")]
    template_hash: Annotated[str | None, Meta(description="A template instead of contents")] = None
    contents: list[FreshMailBody] | None = None
    headers: dict[str, str] | _EmptyList | None = None
    attachments: list[FreshMailFile] | None = None
    reply_to: FreshMailReplyTo | None = None


class FreshMailResult(msgspec.Struct, frozen=True):
    """The accepted email of one recipient."""

    email: str
    id: str


class InvalidFreshMailRequest(Exception):
    """A request that is refused; ``errors`` lists all problems, by path or, where no field is meant, as texts."""

    def __init__(self, errors: dict[str, str] | list[str]) -> None:
        super().__init__("the request can't be taken")
        self.errors = errors


_decode_request: Final = msgspec.json.Decoder(FreshMailRequest).decode
_encode: Final = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> FreshMailRequest:
    """Return the validated request. Raise InvalidFreshMailRequest with all problems, up to MAX_ERRORS.

    Texts aren't compiled and templates aren't looked up here; see `freshmail_render.render_commands`.
    """
    try:
        check_limits(body, max_depth=MAX_DEPTH, max_values=MAX_VALUES)
        request = decode_json(_decode_request, body)
    except Refused as refused:
        raise InvalidFreshMailRequest(_decoding_errors(refused, body)) from None
    errors = dict(islice(_problems(request), MAX_ERRORS))
    if errors:
        raise InvalidFreshMailRequest(errors)
    return request


def encode_response(results: Iterable[FreshMailResult]) -> bytes:
    """Return the body of a 201."""
    return _encode(list(results))


def encode_error(errors: Mapping[str, str] | Iterable[str]) -> bytes:
    """Return the body of any other answer; see the module's docstring for the two forms of ``errors``."""
    return _encode({"errors": dict(errors) if isinstance(errors, Mapping) else list(errors)})


# ---------------------------------------------------------- decoding errors
def _decoding_errors(refused: Refused, body: bytes) -> dict[str, str] | list[str]:
    """Return all problems of a body that the decoder refused; ``refused`` is the first that it found."""
    if not refused.where.startswith("."):
        return [f"{refused} ({refused.where})"]
    first_error = {_documented_path(refused.where[1:]): sentence(str(refused))}
    try:
        value = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        # An integer of thousands of digits, which only a typed decoder reads.
        return first_error
    errors = {}
    for problem in islice(field_problems(FreshMailRequest, value), MAX_ERRORS):
        where = _with_header_name(problem.where, value) if _UNNAMED_KEY in problem.where else problem.where
        text = "This field is missing." if str(problem) == FIELD_MISSING else sentence(str(problem))
        errors[_documented_path(where[1:])] = text
    # Of a repeated name only the last value is seen here, and the decoder may have refused an earlier one.
    errors = errors or first_error
    return errors | dict(islice(_problems_of_other_fields(value, set(map(_top_level_name, errors))), MAX_ERRORS))


def _problems_of_other_fields(value: dict[str, Any], refused_names: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the problems of the fields that could be decoded."""
    decodable = {name: field for name, field in value.items() if name.lower() not in refused_names}
    request = msgspec.convert(_PLACEHOLDER_FIELDS | decodable, FreshMailRequest)
    # A malformed templateHash is replaced by none, which must not be reported as missing contents.
    skipped = refused_names | ({"contents"} if "templatehash" in refused_names else set())
    for path, problem in _problems(request):
        if _top_level_name(path) not in skipped:
            yield path, problem


def _top_level_name(path: str) -> str:
    return re.split(r"[.\[]", path.lower(), maxsplit=1)[0]


def _with_header_name(where: str, value: Any) -> str:
    """Return the path of the header whose value is no text; the decoder's path names only the object of headers."""
    path, _, _ = where.partition(_UNNAMED_KEY)
    for name, index in _PATH_STEP.findall(path):
        value = value[name] if name else value[int(index)]
    header_name = next((name for name, text in value.items() if not isinstance(text, str)), "")
    return f"{path}[{header_name[:60]}]"


def _documented_path(path: str) -> str:
    """Return the path as FreshMail's document writes it, with a capital letter first."""
    return path[:1].upper() + path[1:]


def sentence(problem: str) -> str:
    """Return a problem as a sentence, as FreshMail writes its errors."""
    return f"{problem[:1].upper()}{problem[1:]}."


# --------------------------------------------------------------- validation
def _problems(request: FreshMailRequest) -> Iterator[tuple[str, str]]:
    if not 1 <= len(request.recipients) <= MAX_RECIPIENTS:
        yield "Recipients", f"1 to {MAX_RECIPIENTS} recipients can be taken, these are {len(request.recipients)}."
    for index, recipient in enumerate(request.recipients[:MAX_RECIPIENTS]):
        yield from _recipient_problems(recipient, f"Recipients[{index}]")
    yield from _text_problems("From.name", request.sender.name)
    if address_problem(request.sender.email):
        yield "From.email", NOT_AN_ADDRESS
    if request.reply_to is not None and address_problem(request.reply_to.email):
        yield "ReplyTo.email", NOT_AN_ADDRESS
    yield from _text_problems("Subject", request.subject)
    yield from _content_problems(request)
    yield from _header_problems(request.headers or {}, "Headers")
    for index, file in enumerate(request.attachments or ()):
        if not _FILENAME.fullmatch(file.name):
            yield f"Attachments[{index}].name", "A file name of 1 to 255 characters, without a path."
        yield from _text_problems(f"Attachments[{index}].name", file.name)


def _recipient_problems(recipient: FreshMailRecipient, where: str) -> Iterator[tuple[str, str]]:
    if address_problem(recipient.email):
        yield f"{where}.email", NOT_AN_ADDRESS
    yield from _text_problems(f"{where}.name", recipient.name or "")
    yield from _header_problems(recipient.headers or {}, f"{where}.headers")
    if len(_encode(recipient.personalization)) > PERSONALIZATION_MAX_BYTES:
        yield f"{where}.personalization", f"More than {PERSONALIZATION_MAX_BYTES} bytes."


def _content_problems(request: FreshMailRequest) -> Iterator[tuple[str, str]]:
    if (request.template_hash is None) == (request.contents is None):
        yield "Contents", _CONTENT_SOURCE_RULE
    if request.contents == []:
        yield "Contents", "At least one of text/html and text/plain must be given."
    seen_types: set[str] = set()
    for index, body in enumerate(request.contents or ()):
        if body.kind not in (HTML_TYPE, PLAIN_TYPE):
            yield f"Contents[{index}].type", "Must be text/html or text/plain."
        elif body.kind in seen_types:
            yield f"Contents[{index}].type", "Given twice."
        elif not body.body:
            yield f"Contents[{index}].body", "This value should not be blank."
        seen_types.add(body.kind)


def _header_problems(headers: Mapping[str, str] | list[Any], where: str) -> Iterator[tuple[str, str]]:
    if len(headers) > MAX_HEADERS:
        yield where, f"At most {MAX_HEADERS} headers can be taken."
    for name, value in dict(headers).items():
        if not is_custom_name(name) or len(name) > NAME_MAX_CHARS:
            yield f"{where}[{name[:60]}]", _NAME_RULE
        elif is_steering(name):
            yield f"{where}[{name[:60]}]", _STEERING_RULE
        yield from _text_problems(f"{where}[{name[:60]}]", value)


def _text_problems(where: str, text: str) -> Iterator[tuple[str, str]]:
    if problem := header_text_problem(text):
        yield where, sentence(problem)
