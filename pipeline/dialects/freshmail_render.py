"""Render the emails of a validated FreshMail request, one for each recipient. Pure.

`pipeline.gateway.routes.freshmail` calls it in a thread, with the request of :mod:`pipeline.dialects.freshmail`.
"""

import base64
import binascii
import mimetypes
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeline.content.addresses import header_text_problem
from pipeline.content.budget import ContentBudget, OverBudget, content_bytes
from pipeline.content.chunks import check_part_sizes
from pipeline.content.render import CompiledText, compile_text
from pipeline.content.templates import render_template
from pipeline.dialects.freshmail import (
    HTML_TYPE,
    PLAIN_TYPE,
    FreshMailRecipient,
    FreshMailRequest,
    InvalidFreshMailRequest,
)
from pipeline.errors import Refused
from topics.contents import Attachment, MessageContent
from topics.record import Millis
from topics.templates import Template, TemplateRef, TemplateSyntax

CONTENTS_MAX_BYTES: Final = 64_000_000
"""Bytes of memory for the contents of all recipients; equal contents and their attachments count once."""
RENDERED_MAX_BYTES: Final = 256_000_000
"""Bytes of memory that are rendered for all recipients together; equal contents count each time."""
_TEMPLATE_MARK: Final = re.compile(r"\{[{%#]|\$\$")
_MEDIA_TYPES: Final = mimetypes.MimeTypes(filenames=())
_encode: Final = msgspec.json.Encoder().encode


class FreshMailSendCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A rendered email that can be sent."""

    recipient: str
    name: str
    subject: str
    content: MessageContent
    variables: msgspec.Raw = msgspec.Raw(b"null")
    template: TemplateRef | None = None


class _RenderingContext(msgspec.Struct):
    """Everything that the emails of one request share."""

    texts: dict[str, CompiledText | str]
    """Subject and contents by path; a plain string needs no rendering."""
    files: tuple[Attachment, ...]
    template: Template | None
    now: Millis
    budget: ContentBudget
    contents: dict[tuple[str, str, tuple[tuple[str, str], ...]], MessageContent] = msgspec.field(default_factory=dict)
    """Distinct contents by HTML, text and headers: recipients with equal contents share one on the log."""


def render_commands(request: FreshMailRequest, template: Template | None, now: Millis) -> list[FreshMailSendCommand]:
    """Return an email for each recipient, in order. Raise InvalidFreshMailRequest.

    ``template``: the one that the request names; None if it names none, or one that doesn't exist.
    """
    errors: dict[str, str] = {}
    texts = _compile_texts(request, errors)
    files = _decode_files(request, errors)
    if request.template_hash is not None and template is None:
        errors["TemplateHash"] = "There is no template of this hash; `mailfold templates push` makes one."
    if errors:
        raise InvalidFreshMailRequest(errors)
    context = _RenderingContext(texts, files, template, now, ContentBudget(RENDERED_MAX_BYTES, CONTENTS_MAX_BYTES))
    commands: list[FreshMailSendCommand] = []
    for index, recipient in enumerate(request.recipients):
        try:
            commands.append(_render_command(request, recipient, context))
        except OverBudget as over_budget:
            raise InvalidFreshMailRequest({"Recipients": str(over_budget)}) from None
        except Refused as refused:
            errors[f"Recipients[{index}].personalization"] = f"{refused.where}: {refused}"
    if errors:
        raise InvalidFreshMailRequest(errors)
    return commands


def contents_bytes(commands: list[FreshMailSendCommand]) -> int:
    """Return the bytes of memory that the emails' contents take; a shared content counts once."""
    return sum(map(content_bytes, {id(command.content): command.content for command in commands}.values()))


def _compile_texts(request: FreshMailRequest, errors: dict[str, str]) -> dict[str, CompiledText | str]:
    """Return the subject and each content by path; add what can't be compiled to ``errors``.

    A text without marks is returned as it is: it is the same for all recipients and needs no rendering.
    """
    sources = {"Subject": (request.subject, False)}
    for index, body in enumerate(request.contents or ()):
        sources[f"Contents[{index}].body"] = (body.body, body.kind == HTML_TYPE)
    texts: dict[str, CompiledText | str] = {}
    for path, (source, is_html) in sources.items():
        try:
            text = compile_text(source, TemplateSyntax.FRESHMAIL, html=is_html)
            texts[path] = text if _TEMPLATE_MARK.search(source) else source
        except Refused as refused:
            errors[path] = str(refused)
    return texts


def _decode_files(request: FreshMailRequest, errors: dict[str, str]) -> tuple[Attachment, ...]:
    """Return the attachments; add those that aren't Base64 to ``errors``."""
    attachments = []
    for index, file in enumerate(request.attachments or ()):
        try:
            data = base64.b64decode(re.sub(r"\s+", "", file.content), validate=True)
        except (binascii.Error, ValueError):
            errors[f"Attachments[{index}].content"] = "Not Base64."
            continue
        media_type = _MEDIA_TYPES.guess_type(file.name)[0] or "application/octet-stream"
        attachments.append(Attachment(filename=file.name, media_type=media_type, data=data))
    return tuple(attachments)


def _render_command(
    request: FreshMailRequest, recipient: FreshMailRecipient, context: _RenderingContext
) -> FreshMailSendCommand:
    """Return the email of one recipient. Raise OverBudget or Refused."""
    values = dict(recipient.personalization or {})
    subject, html, text, template_ref = _render_texts(request, values, context)
    headers = _merge_headers(request.headers or {}, recipient.headers or {})
    content = context.contents.get((html, text, headers))
    if content is None:
        content = MessageContent(html=html, text=text, attachments=context.files, headers=headers)
        context.budget.charge_kept(content)
        check_part_sizes(content)
        context.contents[html, text, headers] = content
    return FreshMailSendCommand(
        recipient=recipient.email,
        name=recipient.name or "",
        subject=subject,
        content=content,
        template=template_ref,
        variables=msgspec.Raw(b"null") if template_ref is None else msgspec.Raw(_encode(values)),
    )


def _render_texts(
    request: FreshMailRequest, values: Mapping[str, Any], context: _RenderingContext
) -> tuple[str, str, str, TemplateRef | None]:
    """Return subject, HTML, text and the template they come from. Raise Refused with the path, or OverBudget."""
    texts = {path: _render_text(text, path, values, context) for path, text in context.texts.items()}
    subject = texts["Subject"]
    if problem := header_text_problem(subject):
        raise Refused(problem, "Subject")
    if context.template is not None:
        rendered = render_template(context.template, "", values, now=context.now, lenient=True)
        charge = context.budget.charge_rendered
        return subject, charge(rendered.html), charge(rendered.text), rendered.ref
    bodies = {body.kind: texts[f"Contents[{index}].body"] for index, body in enumerate(request.contents or ())}
    return subject, bodies.get(HTML_TYPE, ""), bodies.get(PLAIN_TYPE, ""), None


def _render_text(text: CompiledText | str, path: str, values: Mapping[str, Any], context: _RenderingContext) -> str:
    if isinstance(text, str):
        return text
    try:
        return context.budget.charge_rendered(text.render(values, context.now))
    except OverBudget:
        raise
    except Refused as refused:
        raise Refused(str(refused), path) from None


def _merge_headers(
    common: Mapping[str, str] | list[Any], own: Mapping[str, str] | list[Any]
) -> tuple[tuple[str, str], ...]:
    """Return the message's headers with the recipient's ``own`` in place of equal names, without regard to case."""
    merged = {name.lower(): (name, value) for name, value in (*dict(common).items(), *dict(own).items())}
    return tuple(merged.values())
