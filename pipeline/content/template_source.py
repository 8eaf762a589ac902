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
from topics.templates import Syntax, Template, Texts

HEAD: Final = "template.json"
PARTS: Final = {"subject": "subject", "html": "html", "txt": "text"}
"""A file name's ending -> what it is."""


class Draft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is pushed."""

    texts: Annotated[
        dict[str, Texts], Meta(description="By language: en, en-gb, or `default`; each with html or text, or both")
    ] = {}
    syntax: Annotated[Syntax, Meta(description="How variables are marked")] = Syntax.TWIG
    default: Annotated[str, Meta(description="The language for those whose own isn't there; else the first")] = ""
    # Made anew: a schema's default can't be written where it is raw.
    schema: Annotated[msgspec.Raw, Meta(description="JSON schema of the variables")] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"null")
    )
    description: Annotated[str, Meta(max_length=1000)] = ""


_draft: Final = msgspec.json.Decoder(Draft).decode


def read(tenant: str, name: str, body: bytes) -> Template:
    """The draft that is pushed as ``name``. Raises Refused with what and where."""
    return _drafted(tenant, name, _decoded(body, "body"))


def from_files(tenant: str, name: str, files: Mapping[str, str]) -> Template:
    """The draft that a folder's files are; ``files``: by name. Raises Refused with what and where."""
    head = _decoded(files.get(HEAD, "{}").encode(), HEAD)
    texts: dict[str, dict[str, str]] = {}
    for file, content in sorted(files.items()):
        language, dot, ending = file.rpartition(".")
        if file != HEAD and dot and ending in PARTS:
            texts.setdefault(language, {})[PARTS[ending]] = content.strip() if ending == "subject" else content
    found = {language: Texts(**parts) for language, parts in texts.items()}
    return _drafted(tenant, name, msgspec.structs.replace(head, texts=head.texts | found))


def _decoded(body: bytes, where: str) -> Draft:
    try:
        return _draft(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), where) from None
    except RecursionError:
        raise Refused("nested too deeply", where) from None


def _drafted(tenant: str, name: str, draft: Draft) -> Template:
    return templates.drafted(
        tenant,
        name,
        draft.texts,
        syntax=draft.syntax,
        default=draft.default,
        schema=draft.schema,
        description=draft.description,
    )


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A version as we answer with it."""

    id: str
    name: str
    version: int
    hash: str
    syntax: Syntax
    default: str
    description: str
    schema: msgspec.Raw
    texts: dict[str, Texts]
    created_at: Annotated[int, Meta(description="Unix time in milliseconds")]


def shown(template: Template) -> Shown:
    """All of it but whose it is."""
    values: dict[str, Any] = {
        name: getattr(template, name)
        for name in ("name", "version", "hash", "syntax", "default", "description", "schema", "texts")
    }
    return Shown(id=template.template_id, created_at=template.recorded_at, **values)
