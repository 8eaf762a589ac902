"""A pushed body, or a folder's files, in; a draft that was found good out. A version, out again as JSON. Pure.

A folder: ``template.json`` (syntax, default, schema, description; all optional) and per language
``en.subject``, ``en.html``, ``en.txt``; a template in one language only calls it ``default``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.content import templates
from pipeline.errors import Refused
from topics.templates import Template, TemplateSyntax, TemplateTexts

METADATA_FILE: Final = "template.json"
PART_BY_EXTENSION: Final = {"subject": "subject", "html": "html", "txt": "text"}
"""A file name's ending -> what it is."""


class TemplateDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is pushed."""

    texts: Annotated[
        dict[str, TemplateTexts],
        Meta(description="By language: en, en-gb, or `default`; each with html or text, or both"),
    ] = {}
    syntax: Annotated[TemplateSyntax, Meta(description="How variables are marked")] = TemplateSyntax.TWIG
    default: Annotated[str, Meta(description="The language for those whose own isn't there; else the first")] = ""
    # Made anew: a schema's default can't be written where it is raw.
    schema: Annotated[msgspec.Raw, Meta(description="JSON schema of the variables")] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"null")
    )
    description: Annotated[str, Meta(max_length=1000)] = ""


_decode_draft: Final = msgspec.json.Decoder(TemplateDraft).decode


def parse_draft(tenant: str, name: str, body: bytes) -> Template:
    """The draft that is pushed as ``name``. Raises Refused with what and where."""
    return _drafted(tenant, name, _decoded(body, "body"))


def draft_from_files(tenant: str, name: str, files: Mapping[str, str]) -> Template:
    """The draft that a folder's files are; ``files``: by name. Raises Refused with what and where."""
    head = _decoded(files.get(METADATA_FILE, "{}").encode(), METADATA_FILE)
    texts: dict[str, dict[str, str]] = {}
    for file, content in sorted(files.items()):
        language, dot, ending = file.rpartition(".")
        if file != METADATA_FILE and dot and ending in PART_BY_EXTENSION:
            texts.setdefault(language, {})[PART_BY_EXTENSION[ending]] = (
                content.strip() if ending == "subject" else content
            )
    found = {language: TemplateTexts(**parts) for language, parts in texts.items()}
    return _drafted(tenant, name, msgspec.structs.replace(head, texts=head.texts | found))


def _decoded(body: bytes, where: str) -> TemplateDraft:
    try:
        return _decode_draft(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), where) from None
    except RecursionError:
        raise Refused("nested too deeply", where) from None


def _drafted(tenant: str, name: str, draft: TemplateDraft) -> Template:
    return templates.make_draft(
        tenant,
        name,
        draft.texts,
        syntax=draft.syntax,
        default=draft.default,
        schema=draft.schema,
        description=draft.description,
    )


class TemplateView(msgspec.Struct, frozen=True, kw_only=True):
    """A version as we answer with it."""

    id: str
    name: str
    version: int
    hash: str
    syntax: TemplateSyntax
    default: str
    description: str
    schema: msgspec.Raw
    texts: dict[str, TemplateTexts]
    created_at: Annotated[int, Meta(description="Unix time in milliseconds")]


def template_view(template: Template) -> TemplateView:
    """All of it but whose it is."""
    values: dict[str, Any] = {
        name: getattr(template, name)
        for name in ("name", "version", "hash", "syntax", "default", "description", "schema", "texts")
    }
    return TemplateView(id=template.template_id, created_at=template.recorded_at, **values)
