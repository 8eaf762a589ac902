"""Check drafts of templates, and render a template in a language with values. Pure.

The dialects render, `template_source` and `localizations` make drafts.
"""

import contextlib
import functools
import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from pipeline.content import schemas
from pipeline.content.addresses import header_text_problem
from pipeline.content.placeholders import Localize, PlaceholderText, raise_missing_localization
from pipeline.content.render import CompiledText, compile_text
from pipeline.content.twig import MAX_OUTPUT_BYTES
from pipeline.errors import Refused
from topics.ids import NAMESPACE
from topics.record import Millis
from topics.templates import TEMPLATE_MAX_BYTES, Template, TemplateRef, TemplateSyntax, TemplateTexts

MAX_LANGUAGES: Final = 50
TEXT_PARTS: Final = ("subject", "html", "text")
TRACKING_HASH_VARIABLE: Final = "tracking_hash"
"""The variable with an email's tracking hash, which templates in Extra Horizon's syntax always have."""
_TEMPLATE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LANGUAGE_TAG_PATTERN: Final = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8}){0,3}|default")
MAX_NODES: Final = 20_000
"""Literals, marks and parts of expressions in all texts of a template; so many take half a second to compile."""
_TOO_MANY_NODES: Final = f"all texts together have more than {MAX_NODES} marks and parts of expressions"


class RenderedTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """A rendered message with a reference to its template."""

    subject: str
    html: str
    text: str
    ref: TemplateRef


def template_id(tenant: str, name: str) -> str:
    """Return the id of a tenant's template of this name."""
    return str(uuid.uuid5(NAMESPACE, f"template|{len(tenant)}:{tenant}|{name}"))


def template_hash(template: Template) -> str:
    """Return the hash of a template's content, without version and time: 32 hex digits."""
    sorted_texts = dict(sorted(template.texts.items()))
    content = msgspec.structs.replace(template, version=0, recorded_at=0, hash="", texts=sorted_texts)
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]


def make_draft(
    tenant: str,
    name: str,
    texts: Mapping[str, TemplateTexts],
    *,
    syntax: TemplateSyntax = TemplateSyntax.TWIG,
    default: str = "",
    schema: bytes | msgspec.Raw = b"null",
    description: str = "",
) -> Template:
    """Return a valid template as version 0. Raise Refused with the place (``texts.en.html: line 3: …``)."""
    languages = {language_tag(language): language_texts for language, language_texts in texts.items()}
    draft = Template(
        template_id=template_id(tenant, name),
        version=0,
        tenant=tenant,
        name=name,
        hash="",
        syntax=syntax,
        texts=languages,
        default=language_tag(default) or ("default" if "default" in languages else next(iter(languages), "")),
        # Encoded again, so that a different layout of the same JSON makes no new version.
        schema=msgspec.Raw(msgspec.json.encode(msgspec.json.decode(schema))),
        description=description,
        recorded_at=0,
    )
    _check_draft(draft)
    return msgspec.structs.replace(draft, hash=template_hash(draft))


def language_of(template: Template, wanted: str) -> str:
    """Return the template's language for a wanted ``en-GB``: that, or ``en``, or the default."""
    return next((tag for tag in language_fallbacks(wanted) if tag in template.texts), template.default)


def language_fallbacks(wanted: str) -> Iterator[str]:
    """Yield the wanted language and its fallbacks: ``en-gb``, ``en``."""
    tag = language_tag(wanted)
    while tag:
        yield tag
        tag = tag.rpartition("-")[0]


def is_localized(template: Template) -> bool:
    """Return whether one of the template's texts names a localization."""
    if template.syntax is not TemplateSyntax.EXTRAHORIZON:
        return False
    return any("{{" in getattr(texts, part) for texts in template.texts.values() for part in TEXT_PARTS)


def render_template(
    template: Template,
    language: str,
    values: Mapping[str, Any],
    *,
    now: Millis,
    lenient: bool = False,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    localize: Localize = raise_missing_localization,
) -> RenderedTemplate:
    """Return the rendered template. Raise Refused with the place of the problem.

    ``now``: the time of ``"now"|date`` in milliseconds; ``lenient``: see `compile_text`. More than ``max_output_bytes``
    for all parts together are refused.
    """
    _check_values(template, values)
    rendered_language = language_of(template, language)
    texts = template.texts[rendered_language]
    rendered: dict[str, str] = {}
    for part in TEXT_PARTS:
        with _located(f"texts.{rendered_language}.{part}"):
            text = _compiled(getattr(texts, part), template.syntax, part == "html", lenient)
            if isinstance(text, PlaceholderText):
                rendered[part] = text.render(values, now, max_output_bytes, localize)
            else:
                rendered[part] = text.render(values, now, max_output_bytes)
        max_output_bytes -= len(rendered[part].encode("utf-8", "replace"))
    _refuse(header_text_problem(rendered["subject"]), f"texts.{rendered_language}.subject")
    ref = TemplateRef(id=template.template_id, version=template.version, language=rendered_language)
    return RenderedTemplate(
        subject=rendered["subject"], html=rendered["html"], text=rendered["text"] if texts.text else "", ref=ref
    )


def language_tag(name: str) -> str:
    """Return a language's tag in lower case with hyphens: ``en-gb`` for ``EN_gb``."""
    return name.replace("_", "-").lower()


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Raise a refusal within the context again, with its place."""
    try:
        yield
    except Refused as refused:
        raise type(refused)(str(refused), where) from None


@functools.lru_cache(maxsize=128)
def _compiled(source: str, syntax: TemplateSyntax, html: bool, lenient: bool) -> CompiledText:
    return compile_text(source, syntax, html=html, lenient=lenient)


# --------------------------------------------------------------- submission
def _check_draft(draft: Template) -> None:
    """Raise Refused with the place of the first problem."""
    _refuse(None if _TEMPLATE_NAME.fullmatch(draft.name) else "letters, digits, . _ and -; at most 100", "name")
    _refuse(None if 0 < len(draft.texts) <= MAX_LANGUAGES else f"1 to {MAX_LANGUAGES} languages", "texts")
    _refuse(None if draft.default in draft.texts else "no texts in this language", "default")
    size = len(msgspec.json.encode(draft))
    _refuse(f"{size} bytes; at most {TEMPLATE_MAX_BYTES}" if size > TEMPLATE_MAX_BYTES else None, "texts")
    declared = schemas.declared_variables(msgspec.json.decode(draft.schema))
    # Every mark has at least two nodes, so too many marks are refused before anything is compiled.
    marks = sum(
        text.count(mark) for texts in draft.texts.values() for text in _all_parts(texts) for mark in ("{{", "{%")
    )
    _refuse(_TOO_MANY_NODES if 2 * marks > MAX_NODES else None, "texts")
    nodes = 0
    for language, texts in draft.texts.items():
        _refuse(
            None if LANGUAGE_TAG_PATTERN.fullmatch(language) else "a language, such as en or en-gb", f"texts.{language}"
        )
        _refuse(None if texts.html or texts.text else "neither html nor text", f"texts.{language}")
        for part in TEXT_PARTS:
            where = f"texts.{language}.{part}"
            nodes += _check_text(getattr(texts, part), draft.syntax, where, declared)
            _refuse(_TOO_MANY_NODES if nodes > MAX_NODES else None, where)


def _all_parts(texts: TemplateTexts) -> tuple[str, str, str]:
    return texts.subject, texts.html, texts.text


def _check_text(source: str, syntax: TemplateSyntax, where: str, declared: frozenset[str] | None) -> int:
    """Return the number of the text's nodes. Raise Refused for invalid marks and undeclared variables."""
    with _located(where):
        compiled = compile_text(source, syntax, html=where.endswith(".html"))
    for line, path in compiled.mentions:
        if declared is not None and path and path[0] not in declared | {TRACKING_HASH_VARIABLE}:
            raise Refused(f"line {line}: {path[0]} is not among the schema's properties", where)
    return compiled.nodes


def _check_values(template: Template, values: Mapping[str, Any]) -> None:
    schema = msgspec.json.decode(template.schema)
    if schema is None:
        return
    declared = schema.get("properties", {})
    schemas.check_values(
        schema, {name: value for name, value in values.items() if name != TRACKING_HASH_VARIABLE or name in declared}
    )


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise Refused(problem, where)
