"""FreshMail's `POST /v3/messaging/emails`: a request's bytes in, an email per recipient out; outcomes in, JSON out.

Pure. All of a request or nothing: whatever can be wrong with any recipient is found before anybody
is written to. Its document leaves open, and we read:

- `errors` is a list of texts where there is no telling which field is meant (no JSON, no object), and
  an object by path (`Recipients[1].email`) everywhere else. Its own example is an array of pairs,
  which no JSON reader takes.
- `replyTo`, an object of `email` and `name`, is in its official client and not in the document.
- The subject is personalized as the contents are; with a template, the request's subject is the one.
- ``[]`` stands for an empty object, as PHP writes one.
"""

import base64
import binascii
import mimetypes
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.content.addresses import address_problem, header_text_problem
from pipeline.content.budget import ContentBudget, OverBudget, content_bytes
from pipeline.content.chunks import check_part_sizes
from pipeline.content.header_names import NAME_MAX_CHARS, is_custom_name, is_steering
from pipeline.content.render import CompiledText, compile_text
from pipeline.content.templates import render_template
from pipeline.dialects.json_fields import field_problems
from pipeline.dialects.raw_json import FIELD_MISSING, check_limits, decode_json
from pipeline.errors import Refused
from topics.contents import Attachment, MessageContent
from topics.record import Millis
from topics.templates import Template, TemplateRef, TemplateSyntax

DIALECT: Final = "freshmail"
MAX_RECIPIENTS: Final = 100
MAX_HEADERS: Final = 50
PERSONALIZATION_MAX_BYTES: Final = 65_536
"""Bytes of one recipient's: it travels with the email's record."""
CONTENTS_MAX_BYTES: Final = 64_000_000
"""Bytes of all recipients' contents together as memory holds them, attachments once for each content that differs."""
RENDERED_MAX_BYTES: Final = 256_000_000
"""Bytes that are rendered for all recipients together, contents that are the same counted each time."""
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 200_000
"""Values of a whole request: 2,000 for each recipient."""
MAX_ERRORS: Final = 1_000
NOT_AN_ADDRESS: Final = "This value is not a valid email address."
"""As in the document."""
_HTML, _PLAIN = "text/html", "text/plain"
_NAME_RULE: Final = f"The name of a custom header is X- and letters, digits or marks; at most {NAME_MAX_CHARS}."
_STEERING_RULE: Final = (
    "Headers of this name are orders to a sending service, or are written by mail servers or Mailfold."
)
_FILENAME: Final = re.compile(r"[^/\\]{1,255}")
_CONTENT_SOURCE_RULE: Final = "Exactly one of templateHash and contents must be given."
_PLACEHOLDER_FIELDS: Final = {"recipients": [], "from": {"name": "", "email": "sender@example.com"}, "subject": ""}
"""Stands for what is missing or can't be read, while the rest is looked at."""
_TEMPLATE_MARK: Final = re.compile(r"\{[{%#]|\$\$")
_UNNAMED_KEY: Final = "[...]"
_PATH_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_MEDIA_TYPES: Final = mimetypes.MimeTypes(filenames=())

_EmptyList = Annotated[list[Any], Meta(max_length=0)]


class FreshMailRecipient(msgspec.Struct, frozen=True):
    """One of those who get it."""

    email: Annotated[str, Meta(description="Whom to write to", extra_json_schema={"format": "email"})]
    name: Annotated[str | None, Meta(description="The name shown with it")] = None
    personalization: dict[str, Any] | _EmptyList | None = None
    headers: dict[str, str] | _EmptyList | None = None


class FreshMailFrom(msgspec.Struct, frozen=True):
    """Who writes."""

    name: Annotated[str, Meta(description="The name shown")]
    email: Annotated[str, Meta(description="The address", extra_json_schema={"format": "email"})]


class FreshMailReplyTo(msgspec.Struct, frozen=True):
    """Where replies go."""

    email: Annotated[str, Meta(description="The address", extra_json_schema={"format": "email"})]
    name: Annotated[str | None, Meta(description="Taken, not shown")] = None


class FreshMailBody(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """One form of what is said."""

    kind: Annotated[str, Meta(extra_json_schema={"enum": ["text/html", "text/plain"]})]
    body: Annotated[
        str, Meta(description="With $$name$$ or Twig's {{ name }} for what differs", extra_json_schema={"minLength": 1})
    ]


class FreshMailFile(msgspec.Struct, frozen=True):
    """A file that goes along."""

    name: Annotated[str, Meta(description="File name with extension")]
    content: Annotated[str, Meta(description="Base64")]


_FIELD_RENAMES: Final = {"sender": "from", "template_hash": "templateHash", "reply_to": "replyTo"}


class FreshMailRequest(msgspec.Struct, frozen=True, rename=_FIELD_RENAMES):
    """The request, field by field as documented; unknown ones are tolerated."""

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


class FreshMailSendCommand(msgspec.Struct, frozen=True, kw_only=True):
    """An email that can be sent."""

    recipient: str
    name: str
    subject: str
    content: MessageContent
    variables: msgspec.Raw = msgspec.Raw(b"null")
    template: TemplateRef | None = None


class _RenderingContext(msgspec.Struct):
    """What one request's emails are made of."""

    texts: dict[str, CompiledText | str]
    files: tuple[Attachment, ...]
    template: Template | None
    now: Millis
    budget: ContentBudget
    contents: dict[tuple[str, str, tuple[tuple[str, str], ...]], MessageContent] = msgspec.field(default_factory=dict)
    """Each content that differs, once: recipients who get the same share it on the log."""


class FreshMailResult(msgspec.Struct, frozen=True):
    """A recipient's answer."""

    email: str
    id: str


class InvalidFreshMailRequest(Exception):
    """The request can't be taken; all that is wrong with it, by path or, where there is none, as a list."""

    def __init__(self, errors: dict[str, str] | list[str]) -> None:
        super().__init__("the request can't be taken")
        self.errors = errors


_decode_request: Final = msgspec.json.Decoder(FreshMailRequest).decode
_encode: Final = msgspec.json.Encoder().encode


def parse_request(body: bytes) -> FreshMailRequest:
    """Return the request. Raise Invalid with everything that is wrong before a template is looked up."""
    try:
        check_limits(body, max_depth=MAX_DEPTH, max_values=MAX_VALUES)
        post = decode_json(_decode_request, body)
    except Refused as refused:
        raise InvalidFreshMailRequest(_told(refused, body)) from None
    errors = dict(islice(_problems(post), MAX_ERRORS))
    if errors:
        raise InvalidFreshMailRequest(errors)
    return post


def render_commands(post: FreshMailRequest, template: Template | None, now: Millis) -> list[FreshMailSendCommand]:
    """An email for each recipient, in order. Raises Invalid."""
    errors: dict[str, str] = {}
    texts = _compile(post, errors)
    files = _files(post, errors)
    if post.template_hash is not None and template is None:
        errors["TemplateHash"] = "There is no template of this hash; `mailfold templates push` makes one."
    if errors:
        raise InvalidFreshMailRequest(errors)
    kit = _RenderingContext(texts, files, template, now, ContentBudget(RENDERED_MAX_BYTES, CONTENTS_MAX_BYTES))
    found: list[FreshMailSendCommand] = []
    for nth, recipient in enumerate(post.recipients):
        try:
            found.append(_wish(post, recipient, kit))
        except OverBudget as over:
            raise InvalidFreshMailRequest({"Recipients": str(over)}) from None
        except Refused as refused:
            errors[f"Recipients[{nth}].personalization"] = f"{refused.where}: {refused}"
    if errors:
        raise InvalidFreshMailRequest(errors)
    return found


def contents_bytes(found: list[FreshMailSendCommand]) -> int:
    """Return how many bytes of memory the emails' contents take, each once."""
    return sum(map(content_bytes, {id(wish.content): wish.content for wish in found}.values()))


def encode_response(taken: Iterable[FreshMailResult]) -> bytes:
    """The 201's body."""
    return _encode(list(taken))


def encode_error(errors: Mapping[str, str] | Iterable[str]) -> bytes:
    """Any other answer's body."""
    return _encode({"errors": dict(errors) if isinstance(errors, Mapping) else list(errors)})


# ------------------------------------------------------------------ reading
def _told(refused: Refused, body: bytes) -> dict[str, str] | list[str]:
    if not refused.where.startswith("."):
        return [f"{refused} ({refused.where})"]
    first = {_path(refused.where[1:]): f"{str(refused)[:1].upper()}{str(refused)[1:]}."}
    try:
        value = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        # An integer of thousands of digits, which only a typed decoder takes.
        return first
    errors = {}
    for misfit in islice(field_problems(FreshMailRequest, value), MAX_ERRORS):
        where = _named(misfit.where, value) if _UNNAMED_KEY in misfit.where else misfit.where
        what = (
            "This field is missing." if str(misfit) == FIELD_MISSING else f"{str(misfit)[:1].upper()}{str(misfit)[1:]}."
        )
        errors[_path(where[1:])] = what
    # Of a name that stands there twice only the last value is looked at here.
    errors = errors or first
    return errors | dict(islice(_problems_beside(value, set(map(_first_name, errors))), MAX_ERRORS))


def _problems_beside(value: dict[str, Any], wrong: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with those fields that could be read."""
    fitting = {name: given for name, given in value.items() if name.lower() not in wrong}
    post = msgspec.convert(_PLACEHOLDER_FIELDS | fitting, FreshMailRequest)
    beside = wrong | ({"contents"} if "templatehash" in wrong else set())
    for path, problem in _problems(post):
        if _first_name(path) not in beside:
            yield path, problem


def _first_name(path: str) -> str:
    return re.split(r"[.\[]", path.lower(), maxsplit=1)[0]


def _named(where: str, value: Any) -> str:
    """Return the path of the header whose value is no text; the decoder names the object only."""
    path, _, _ = where.partition(_UNNAMED_KEY)
    for name, nth in _PATH_STEP.findall(path):
        value = value[name] if name else value[int(nth)]
    wrong = next((name for name, told in value.items() if not isinstance(told, str)), "")
    return f"{path}[{wrong[:60]}]"


def _path(where: str) -> str:
    return where[:1].upper() + where[1:]


def _problems(post: FreshMailRequest) -> Iterator[tuple[str, str]]:
    if not 1 <= len(post.recipients) <= MAX_RECIPIENTS:
        yield "Recipients", f"1 to {MAX_RECIPIENTS} recipients can be taken, these are {len(post.recipients)}."
    for nth, recipient in enumerate(post.recipients[:MAX_RECIPIENTS]):
        yield from _recipient_problems(recipient, f"Recipients[{nth}]")
    yield from _text("From.name", post.sender.name)
    if address_problem(post.sender.email):
        yield "From.email", NOT_AN_ADDRESS
    if post.reply_to is not None and address_problem(post.reply_to.email):
        yield "ReplyTo.email", NOT_AN_ADDRESS
    yield from _text("Subject", post.subject)
    yield from _content_problems(post)
    yield from _header_problems(post.headers or {}, "Headers")
    for nth, file in enumerate(post.attachments or ()):
        if not _FILENAME.fullmatch(file.name):
            yield f"Attachments[{nth}].name", "A file name of 1 to 255 characters, without a path."
        yield from _text(f"Attachments[{nth}].name", file.name)


def _recipient_problems(recipient: FreshMailRecipient, where: str) -> Iterator[tuple[str, str]]:
    if address_problem(recipient.email):
        yield f"{where}.email", NOT_AN_ADDRESS
    yield from _text(f"{where}.name", recipient.name or "")
    yield from _header_problems(recipient.headers or {}, f"{where}.headers")
    if len(_encode(recipient.personalization)) > PERSONALIZATION_MAX_BYTES:
        yield f"{where}.personalization", f"More than {PERSONALIZATION_MAX_BYTES} bytes."


def _content_problems(post: FreshMailRequest) -> Iterator[tuple[str, str]]:
    if (post.template_hash is None) == (post.contents is None):
        yield "Contents", _CONTENT_SOURCE_RULE
    if post.contents == []:
        yield "Contents", "At least one of text/html and text/plain must be given."
    seen: set[str] = set()
    for nth, body in enumerate(post.contents or ()):
        if body.kind not in (_HTML, _PLAIN):
            yield f"Contents[{nth}].type", "Must be text/html or text/plain."
        elif body.kind in seen:
            yield f"Contents[{nth}].type", "Given twice."
        elif not body.body:
            yield f"Contents[{nth}].body", "This value should not be blank."
        seen.add(body.kind)


def _header_problems(headers: Mapping[str, str] | list[Any], where: str) -> Iterator[tuple[str, str]]:
    if len(headers) > MAX_HEADERS:
        yield where, f"At most {MAX_HEADERS} headers can be taken."
    for name, value in dict(headers).items():
        if not is_custom_name(name) or len(name) > NAME_MAX_CHARS:
            yield f"{where}[{name[:60]}]", _NAME_RULE
        elif is_steering(name):
            yield f"{where}[{name[:60]}]", _STEERING_RULE
        yield from _text(f"{where}[{name[:60]}]", value)


def _text(where: str, text: str) -> Iterator[tuple[str, str]]:
    if problem := header_text_problem(text):
        yield where, f"{problem[:1].upper()}{problem[1:]}."


# ---------------------------------------------------------------- rendering
def _compile(post: FreshMailRequest, errors: dict[str, str]) -> dict[str, CompiledText | str]:
    """Return the subject and each content by their path; those without marks as they are, the same for everybody."""
    sources = {"Subject": (post.subject, False)}
    for nth, body in enumerate(post.contents or ()):
        sources[f"Contents[{nth}].body"] = (body.body, body.kind == _HTML)
    found: dict[str, CompiledText | str] = {}
    for where, (source, is_html) in sources.items():
        try:
            text = compile_text(source, TemplateSyntax.FRESHMAIL, html=is_html)
            found[where] = text if _TEMPLATE_MARK.search(source) else source
        except Refused as refused:
            errors[where] = str(refused)
    return found


def _files(post: FreshMailRequest, errors: dict[str, str]) -> tuple[Attachment, ...]:
    found = []
    for nth, file in enumerate(post.attachments or ()):
        try:
            data = base64.b64decode(re.sub(r"\s+", "", file.content), validate=True)
        except (binascii.Error, ValueError):
            errors[f"Attachments[{nth}].content"] = "Not Base64."
            continue
        media = _MEDIA_TYPES.guess_type(file.name)[0] or "application/octet-stream"
        found.append(Attachment(filename=file.name, media_type=media, data=data))
    return tuple(found)


def _wish(post: FreshMailRequest, recipient: FreshMailRecipient, kit: _RenderingContext) -> FreshMailSendCommand:
    values = dict(recipient.personalization or {})
    subject, html, text, ref = _said(post, values, kit)
    headers = _merged(post.headers or {}, recipient.headers or {})
    content = kit.contents.get((html, text, headers))
    if content is None:
        content = kit.budget.charge_kept(MessageContent(html=html, text=text, attachments=kit.files, headers=headers))
        check_part_sizes(content)
        kit.contents[html, text, headers] = content
    return FreshMailSendCommand(
        recipient=recipient.email,
        name=recipient.name or "",
        subject=subject,
        content=content,
        template=ref,
        variables=msgspec.Raw(b"null") if ref is None else msgspec.Raw(_encode(values)),
    )


def _said(
    post: FreshMailRequest, values: Mapping[str, Any], kit: _RenderingContext
) -> tuple[str, str, str, TemplateRef | None]:
    """Subject, HTML, text and the template they come from. Raises Refused with what and where."""
    said = {where: _rendered(text, where, values, kit) for where, text in kit.texts.items()}
    if problem := header_text_problem(said["Subject"]):
        raise Refused(problem, "Subject")
    if kit.template is not None:
        made = render_template(kit.template, "", values, now=kit.now, lenient=True)
        return said["Subject"], kit.budget.charge_rendered(made.html), kit.budget.charge_rendered(made.text), made.ref
    bodies = {body.kind: said[f"Contents[{nth}].body"] for nth, body in enumerate(post.contents or ())}
    return said["Subject"], bodies.get(_HTML, ""), bodies.get(_PLAIN, ""), None


def _rendered(text: CompiledText | str, where: str, values: Mapping[str, Any], kit: _RenderingContext) -> str:
    if isinstance(text, str):
        return text
    try:
        return kit.budget.charge_rendered(text.render(values, kit.now))
    except OverBudget:
        raise
    except Refused as refused:
        raise Refused(str(refused), where) from None


def _merged(common: Mapping[str, str] | list[Any], own: Mapping[str, str] | list[Any]) -> tuple[tuple[str, str], ...]:
    """A recipient's headers over the message's; a name has no case."""
    found = {name.lower(): (name, value) for name, value in (*dict(common).items(), *dict(own).items())}
    return tuple(found.values())
