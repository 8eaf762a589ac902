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

from pipeline.content.addresses import address_problem, text_problem
from pipeline.content.budget import ContentBudget, OverBudget, content_bytes
from pipeline.content.chunks import check_parts
from pipeline.content.header_names import MAX_NAME_CHARACTERS, is_custom_name, is_steering
from pipeline.content.render import Compiled, compiled
from pipeline.content.templates import render
from pipeline.dialects.json_fields import misfits
from pipeline.dialects.raw_json import MISSING, check, typed
from pipeline.errors import Refused
from topics.contents import Attachment, Content
from topics.record import Millis
from topics.templates import Syntax, Template, TemplateRef

DIALECT: Final = "freshmail"
RECIPIENTS_MAX: Final = 100
HEADERS_MAX: Final = 50
PERSONALIZATION_MAX: Final = 65_536
"""Bytes of one recipient's: it travels with the email's record."""
CONTENTS_MAX: Final = 64_000_000
"""Bytes of all recipients' contents together as memory holds them, attachments once for each content that differs."""
RENDERED_MAX: Final = 256_000_000
"""Bytes that are rendered for all recipients together, contents that are the same counted each time."""
NESTING_MAX: Final = 64
VALUES_MAX: Final = 200_000
"""Values of a whole request: 2,000 for each recipient."""
ERRORS_MAX: Final = 1_000
NOT_AN_ADDRESS: Final = "This value is not a valid email address."
"""As in the document."""
_HTML, _PLAIN = "text/html", "text/plain"
_NAME_RULE: Final = f"The name of a custom header is X- and letters, digits or marks; at most {MAX_NAME_CHARACTERS}."
_STEERING: Final = "Headers of this name are orders to a sending service, or are written by mail servers or Mailfold."
_FILENAME: Final = re.compile(r"[^/\\]{1,255}")
_EITHER: Final = "Exactly one of templateHash and contents must be given."
_FITTING: Final = {"recipients": [], "from": {"name": "", "email": "sender@example.com"}, "subject": ""}
"""Stands for what is missing or can't be read, while the rest is looked at."""
_MARKED: Final = re.compile(r"\{[{%#]|\$\$")
_SOME_KEY: Final = "[...]"
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_TYPES: Final = mimetypes.MimeTypes(filenames=())

_Nothing = Annotated[list[Any], Meta(max_length=0)]


class Recipient(msgspec.Struct, frozen=True):
    """One of those who get it."""

    email: Annotated[str, Meta(description="Whom to write to", extra_json_schema={"format": "email"})]
    name: Annotated[str | None, Meta(description="The name shown with it")] = None
    personalization: dict[str, Any] | _Nothing | None = None
    headers: dict[str, str] | _Nothing | None = None


class From(msgspec.Struct, frozen=True):
    """Who writes."""

    name: Annotated[str, Meta(description="The name shown")]
    email: Annotated[str, Meta(description="The address", extra_json_schema={"format": "email"})]


class ReplyTo(msgspec.Struct, frozen=True):
    """Where replies go."""

    email: Annotated[str, Meta(description="The address", extra_json_schema={"format": "email"})]
    name: Annotated[str | None, Meta(description="Taken, not shown")] = None


class Body(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """One form of what is said."""

    kind: Annotated[str, Meta(extra_json_schema={"enum": ["text/html", "text/plain"]})]
    body: Annotated[
        str, Meta(description="With $$name$$ or Twig's {{ name }} for what differs", extra_json_schema={"minLength": 1})
    ]


class File(msgspec.Struct, frozen=True):
    """A file that goes along."""

    name: Annotated[str, Meta(description="File name with extension")]
    content: Annotated[str, Meta(description="Base64")]


_NAMES: Final = {"sender": "from", "template_hash": "templateHash", "reply_to": "replyTo"}


class Post(msgspec.Struct, frozen=True, rename=_NAMES):
    """The request, field by field as documented; unknown ones are tolerated."""

    recipients: Annotated[
        list[Recipient], Meta(description="1 to 100", extra_json_schema={"minItems": 1, "maxItems": 100})
    ]
    sender: From
    subject: Annotated[str, Meta(description="Subject, personalized like the contents")]
    template_hash: Annotated[str | None, Meta(description="A template instead of contents")] = None
    contents: list[Body] | None = None
    headers: dict[str, str] | _Nothing | None = None
    attachments: list[File] | None = None
    reply_to: ReplyTo | None = None


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """An email that can be sent."""

    recipient: str
    name: str
    subject: str
    content: Content
    variables: msgspec.Raw = msgspec.Raw(b"null")
    template: TemplateRef | None = None


class _Kit(msgspec.Struct):
    """What one request's emails are made of."""

    texts: dict[str, Compiled | str]
    files: tuple[Attachment, ...]
    template: Template | None
    now: Millis
    budget: ContentBudget
    contents: dict[tuple[str, str, tuple[tuple[str, str], ...]], Content] = msgspec.field(default_factory=dict)
    """Each content that differs, once: recipients who get the same share it on the log."""


class Registered(msgspec.Struct, frozen=True):
    """A recipient's answer."""

    email: str
    id: str


class Invalid(Exception):
    """The request can't be taken; all that is wrong with it, by path or, where there is none, as a list."""

    def __init__(self, errors: dict[str, str] | list[str]) -> None:
        super().__init__("the request can't be taken")
        self.errors = errors


_post: Final = msgspec.json.Decoder(Post).decode
_encode: Final = msgspec.json.Encoder().encode


def read(body: bytes) -> Post:
    """Return the request. Raise Invalid with everything that is wrong before a template is looked up."""
    try:
        check(body, max_depth=NESTING_MAX, max_values=VALUES_MAX)
        post = typed(_post, body)
    except Refused as refused:
        raise Invalid(_told(refused, body)) from None
    errors = dict(islice(_problems(post), ERRORS_MAX))
    if errors:
        raise Invalid(errors)
    return post


def wishes(post: Post, template: Template | None, now: Millis) -> list[Wish]:
    """An email for each recipient, in order. Raises Invalid."""
    errors: dict[str, str] = {}
    texts = _compile(post, errors)
    files = _files(post, errors)
    if post.template_hash is not None and template is None:
        errors["TemplateHash"] = "There is no template of this hash; `mailfold templates push` makes one."
    if errors:
        raise Invalid(errors)
    kit = _Kit(texts, files, template, now, ContentBudget(RENDERED_MAX, CONTENTS_MAX))
    found: list[Wish] = []
    for nth, recipient in enumerate(post.recipients):
        try:
            found.append(_wish(post, recipient, kit))
        except OverBudget as over:
            raise Invalid({"Recipients": str(over)}) from None
        except Refused as refused:
            errors[f"Recipients[{nth}].personalization"] = f"{refused.where}: {refused}"
    if errors:
        raise Invalid(errors)
    return found


def size(found: list[Wish]) -> int:
    """Return how many bytes of memory the emails' contents take, each once."""
    return sum(map(content_bytes, {id(wish.content): wish.content for wish in found}.values()))


def answer(taken: Iterable[Registered]) -> bytes:
    """The 201's body."""
    return _encode(list(taken))


def error(errors: Mapping[str, str] | Iterable[str]) -> bytes:
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
    for misfit in islice(misfits(Post, value), ERRORS_MAX):
        where = _named(misfit.where, value) if _SOME_KEY in misfit.where else misfit.where
        what = "This field is missing." if str(misfit) == MISSING else f"{str(misfit)[:1].upper()}{str(misfit)[1:]}."
        errors[_path(where[1:])] = what
    # Of a name that stands there twice only the last value is looked at here.
    errors = errors or first
    return errors | dict(islice(_problems_beside(value, set(map(_first_name, errors))), ERRORS_MAX))


def _problems_beside(value: dict[str, Any], wrong: set[str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with those fields that could be read."""
    fitting = {name: given for name, given in value.items() if name.lower() not in wrong}
    post = msgspec.convert(_FITTING | fitting, Post)
    beside = wrong | ({"contents"} if "templatehash" in wrong else set())
    for path, problem in _problems(post):
        if _first_name(path) not in beside:
            yield path, problem


def _first_name(path: str) -> str:
    return re.split(r"[.\[]", path.lower(), maxsplit=1)[0]


def _named(where: str, value: Any) -> str:
    """Return the path of the header whose value is no text; the decoder names the object only."""
    path, _, _ = where.partition(_SOME_KEY)
    for name, nth in _STEP.findall(path):
        value = value[name] if name else value[int(nth)]
    wrong = next((name for name, told in value.items() if not isinstance(told, str)), "")
    return f"{path}[{wrong[:60]}]"


def _path(where: str) -> str:
    return where[:1].upper() + where[1:]


def _problems(post: Post) -> Iterator[tuple[str, str]]:
    if not 1 <= len(post.recipients) <= RECIPIENTS_MAX:
        yield "Recipients", f"1 to {RECIPIENTS_MAX} recipients can be taken, these are {len(post.recipients)}."
    for nth, recipient in enumerate(post.recipients[:RECIPIENTS_MAX]):
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


def _recipient_problems(recipient: Recipient, where: str) -> Iterator[tuple[str, str]]:
    if address_problem(recipient.email):
        yield f"{where}.email", NOT_AN_ADDRESS
    yield from _text(f"{where}.name", recipient.name or "")
    yield from _header_problems(recipient.headers or {}, f"{where}.headers")
    if len(_encode(recipient.personalization)) > PERSONALIZATION_MAX:
        yield f"{where}.personalization", f"More than {PERSONALIZATION_MAX} bytes."


def _content_problems(post: Post) -> Iterator[tuple[str, str]]:
    if (post.template_hash is None) == (post.contents is None):
        yield "Contents", _EITHER
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
    if len(headers) > HEADERS_MAX:
        yield where, f"At most {HEADERS_MAX} headers can be taken."
    for name, value in dict(headers).items():
        if not is_custom_name(name) or len(name) > MAX_NAME_CHARACTERS:
            yield f"{where}[{name[:60]}]", _NAME_RULE
        elif is_steering(name):
            yield f"{where}[{name[:60]}]", _STEERING
        yield from _text(f"{where}[{name[:60]}]", value)


def _text(where: str, text: str) -> Iterator[tuple[str, str]]:
    if problem := text_problem(text):
        yield where, f"{problem[:1].upper()}{problem[1:]}."


# ---------------------------------------------------------------- rendering
def _compile(post: Post, errors: dict[str, str]) -> dict[str, Compiled | str]:
    """Return the subject and each content by their path; those without marks as they are, the same for everybody."""
    sources = {"Subject": (post.subject, False)}
    for nth, body in enumerate(post.contents or ()):
        sources[f"Contents[{nth}].body"] = (body.body, body.kind == _HTML)
    found: dict[str, Compiled | str] = {}
    for where, (source, is_html) in sources.items():
        try:
            text = compiled(source, Syntax.FRESHMAIL, html=is_html)
            found[where] = text if _MARKED.search(source) else source
        except Refused as refused:
            errors[where] = str(refused)
    return found


def _files(post: Post, errors: dict[str, str]) -> tuple[Attachment, ...]:
    found = []
    for nth, file in enumerate(post.attachments or ()):
        try:
            data = base64.b64decode(re.sub(r"\s+", "", file.content), validate=True)
        except (binascii.Error, ValueError):
            errors[f"Attachments[{nth}].content"] = "Not Base64."
            continue
        media = _TYPES.guess_type(file.name)[0] or "application/octet-stream"
        found.append(Attachment(filename=file.name, media_type=media, data=data))
    return tuple(found)


def _wish(post: Post, recipient: Recipient, kit: _Kit) -> Wish:
    values = dict(recipient.personalization or {})
    subject, html, text, ref = _said(post, values, kit)
    headers = _merged(post.headers or {}, recipient.headers or {})
    content = kit.contents.get((html, text, headers))
    if content is None:
        content = kit.budget.charge_kept(Content(html=html, text=text, attachments=kit.files, headers=headers))
        check_parts(content)
        kit.contents[html, text, headers] = content
    return Wish(
        recipient=recipient.email,
        name=recipient.name or "",
        subject=subject,
        content=content,
        template=ref,
        variables=msgspec.Raw(b"null") if ref is None else msgspec.Raw(_encode(values)),
    )


def _said(post: Post, values: Mapping[str, Any], kit: _Kit) -> tuple[str, str, str, TemplateRef | None]:
    """Subject, HTML, text and the template they come from. Raises Refused with what and where."""
    said = {where: _rendered(text, where, values, kit) for where, text in kit.texts.items()}
    if problem := text_problem(said["Subject"]):
        raise Refused(problem, "Subject")
    if kit.template is not None:
        made = render(kit.template, "", values, now=kit.now, lenient=True)
        return said["Subject"], kit.budget.charge_rendered(made.html), kit.budget.charge_rendered(made.text), made.ref
    bodies = {body.kind: said[f"Contents[{nth}].body"] for nth, body in enumerate(post.contents or ())}
    return said["Subject"], bodies.get(_HTML, ""), bodies.get(_PLAIN, ""), None


def _rendered(text: Compiled | str, where: str, values: Mapping[str, Any], kit: _Kit) -> str:
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
