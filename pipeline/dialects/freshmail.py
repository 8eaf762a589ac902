"""FreshMail's `POST /v3/messaging/emails`: a request's bytes in, an email per recipient out; outcomes in, JSON out.

Pure. All of a request or nothing: whatever can be wrong with any recipient is found before anybody
is written to. Its document leaves open, and we read:

- `errors` is a list of texts where there is no telling which field is meant (no JSON, no object), and
  an object by path (`Recipients[1].email`) everywhere else. Its own example is an array of pairs,
  which no JSON reader takes.
- The subject is personalized as the contents are; with a template, the request's subject is the one.
- ``[]`` stands for an empty object, as PHP writes one.
"""

import base64
import binascii
import mimetypes
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.addresses import address_problem, text_problem
from pipeline.content.render import Compiled, compiled
from pipeline.content.templates import render
from pipeline.errors import Refused
from pipeline.json_items import MISSING, typed
from topics.contents import Attachment, Content
from topics.record import Millis
from topics.templates import Syntax, Template, TemplateRef

DIALECT: Final = "freshmail"
RECIPIENTS_MAX: Final = 100
HEADERS_MAX: Final = 50
PERSONALIZATION_MAX: Final = 65_536
"""Bytes of one recipient's: it travels with the email's record."""
CONTENTS_MAX: Final = 64_000_000
"""Bytes of all recipients' contents together, attachments once for each content that differs."""
NOT_AN_ADDRESS: Final = "This value is not a valid email address."
"""As in the document."""
_HTML, _PLAIN = "text/html", "text/plain"
_HEADER: Final = re.compile(r"x-[a-z0-9][a-z0-9-]{0,57}", re.IGNORECASE)
_OURS: Final = frozenset({"x-smtpapi"})
_FILENAME: Final = re.compile(r"[^/\\]{1,255}")
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


class Post(msgspec.Struct, frozen=True, rename={"sender": "from", "template_hash": "templateHash"}):
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

    texts: dict[str, Compiled]
    files: tuple[Attachment, ...]
    template: Template | None
    now: Millis
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
    """The request. Raises Invalid with everything that is wrong before a template is looked up."""
    try:
        post = typed(_post, body)
    except Refused as refused:
        raise Invalid(_told(refused, body)) from None
    errors = dict(_problems(post))
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
    kit = _Kit(texts, files, template, now)
    found: list[Wish] = []
    for nth, recipient in enumerate(post.recipients):
        try:
            found.append(_wish(post, recipient, kit))
        except Refused as refused:
            errors[f"Recipients[{nth}].personalization"] = f"{refused.where}: {refused}"
    size = sum(_size(content) for content in kit.contents.values())
    if size > CONTENTS_MAX:
        errors["Recipients"] = f"Their contents are {size} bytes together, at most {CONTENTS_MAX} can be taken."
    if errors:
        raise Invalid(errors)
    return found


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
    where = _named(refused.where, body) if _SOME_KEY in refused.where else refused.where
    what = "This field is missing." if str(refused) == MISSING else f"{str(refused)[:1].upper()}{str(refused)[1:]}."
    return {_path(where[1:]): what}


def _named(where: str, body: bytes) -> str:
    """The header whose value is no text; the decoder names the object only."""
    path, _, _ = where.partition(_SOME_KEY)
    value = msgspec.json.decode(body)
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
        yield "Contents", "Exactly one of templateHash and contents must be given."
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
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            yield f"{where}[{name[:60]}]", "The name of a custom header must begin with X- and be none of our own."
        yield from _text(f"{where}[{name[:60]}]", value)


def _text(where: str, text: str) -> Iterator[tuple[str, str]]:
    if problem := text_problem(text):
        yield where, f"{problem[:1].upper()}{problem[1:]}."


# ---------------------------------------------------------------- rendering
def _compile(post: Post, errors: dict[str, str]) -> dict[str, Compiled]:
    """The subject and each content, by their path."""
    sources = {"Subject": (post.subject, False)}
    for nth, body in enumerate(post.contents or ()):
        sources[f"Contents[{nth}].body"] = (body.body, body.kind == _HTML)
    found: dict[str, Compiled] = {}
    for where, (source, is_html) in sources.items():
        try:
            found[where] = compiled(source, Syntax.FRESHMAIL, html=is_html)
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
    content = Content(html=html, text=text, attachments=kit.files, headers=headers)
    return Wish(
        recipient=recipient.email,
        name=recipient.name or "",
        subject=subject,
        content=kit.contents.setdefault((html, text, headers), content),
        template=ref,
        variables=msgspec.Raw(b"null") if ref is None else msgspec.Raw(_encode(values)),
    )


def _said(post: Post, values: Mapping[str, Any], kit: _Kit) -> tuple[str, str, str, TemplateRef | None]:
    """Subject, HTML, text and the template they come from. Raises Refused with what and where."""
    said = {where: _rendered(text, where, values, kit.now) for where, text in kit.texts.items()}
    if problem := text_problem(said["Subject"]):
        raise Refused(problem, "Subject")
    if kit.template is not None:
        made = render(kit.template, "", values, now=kit.now)
        return said["Subject"], made.html, made.text, made.ref
    bodies = {body.kind: said[f"Contents[{nth}].body"] for nth, body in enumerate(post.contents or ())}
    return said["Subject"], bodies.get(_HTML, ""), bodies.get(_PLAIN, ""), None


def _rendered(text: Compiled, where: str, values: Mapping[str, Any], now: Millis) -> str:
    try:
        return text.render(values, now)
    except Refused as refused:
        raise Refused(str(refused), where) from None


def _merged(common: Mapping[str, str] | list[Any], own: Mapping[str, str] | list[Any]) -> tuple[tuple[str, str], ...]:
    """A recipient's headers over the message's; a name has no case."""
    found = {name.lower(): (name, value) for name, value in (*dict(common).items(), *dict(own).items())}
    return tuple(found.values())


def _size(content: Content) -> int:
    return len(content.html) + len(content.text) + sum(len(file.data) for file in content.attachments)
