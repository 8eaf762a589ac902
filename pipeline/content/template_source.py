"""Parse templates from a pushed body or a folder's files, and show stored versions as JSON. Pure.

The template routes and commands call it. A folder has ``template.json`` (syntax, default, schema, description; all
optional) and for each language ``en.subject``, ``en.html`` and ``en.txt``; a template in only one language may call it
``default``.
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
"""The part of a template that a file has, by its extension."""


class TemplateDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a push."""

    texts: Annotated[
        dict[str, TemplateTexts],
        Meta(description="By language: en, en-gb, or `default`; each with html or text, or both"),
    ] = {}
    syntax: Annotated[TemplateSyntax, Meta(description="How variables are marked")] = TemplateSyntax.TWIG
    default: Annotated[
        str, Meta(description="The language used where the wanted one is missing; if empty, the first")
    ] = ""
    # By a factory: msgspec can't write a raw default into the JSON schema.
    schema: Annotated[msgspec.Raw, Meta(description="JSON schema of the variables")] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"null")
    )
    description: Annotated[str, Meta(max_length=1000)] = ""


_decode_draft: Final = msgspec.json.Decoder(TemplateDraft).decode


def parse_draft(tenant: str, name: str, body: bytes) -> Template:
    """Return the draft of a template that is pushed as ``name``. Raise Refused with the place of the problem."""
    return _make_draft(tenant, name, _decode(body, "body"))


def draft_from_files(tenant: str, name: str, files: Mapping[str, str]) -> Template:
    """Return the draft of a folder's files. Raise Refused with the place of the problem.

    ``files``: their contents by name.
    """
    metadata = _decode(files.get(METADATA_FILE, "{}").encode(), METADATA_FILE)
    texts: dict[str, dict[str, str]] = {}
    for file, content in sorted(files.items()):
        language, dot, extension = file.rpartition(".")
        if file != METADATA_FILE and dot and extension in PART_BY_EXTENSION:
            texts.setdefault(language, {})[PART_BY_EXTENSION[extension]] = (
                content.strip() if extension == "subject" else content
            )
    texts_of_files = {language: TemplateTexts(**parts) for language, parts in texts.items()}
    return _make_draft(tenant, name, msgspec.structs.replace(metadata, texts=metadata.texts | texts_of_files))


def _decode(body: bytes, where: str) -> TemplateDraft:
    try:
        return _decode_draft(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), where) from None
    except RecursionError:
        raise Refused("nested too deeply", where) from None


def _make_draft(tenant: str, name: str, draft: TemplateDraft) -> Template:
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
    """A version of a template as the API shows it."""

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
    """Return a stored version as the API shows it, without its tenant."""
    values: dict[str, Any] = {
        name: getattr(template, name)
        for name in ("name", "version", "hash", "syntax", "default", "description", "schema", "texts")
    }
    return TemplateView(id=template.template_id, created_at=template.recorded_at, **values)
