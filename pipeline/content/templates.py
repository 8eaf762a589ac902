"""A template, a language and values in, subject, HTML and text out; a draft in, what is wrong with it out. Pure."""

import functools
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import jsonschema
import msgspec
import referencing

from pipeline.addresses import text_problem
from pipeline.content.placeholders import Localize, Placeholders, nothing_localized
from pipeline.content.render import Compiled, compiled
from pipeline.errors import Refused
from topics.ids import NAMESPACE
from topics.record import Millis
from topics.templates import TEMPLATE_MAX, Syntax, Template, TemplateRef, Texts

LANGUAGES_MAX: Final = 50
PARTS: Final = ("subject", "html", "text")
TRACKING_HASH: Final = "tracking_hash"
"""A variable that Extra Horizon's senders get without asking."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LANGUAGE: Final = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8}){0,3}|default")
_KEYWORDS: Final = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "enum", "const", "items", "title", "description"),
        *("default", "examples", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "$schema"),
    }
)
"""No `pattern`, no `$ref`: one can take for ever, the other asks elsewhere."""


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says, and what it was made from."""

    subject: str
    html: str
    text: str
    ref: TemplateRef


def template_id(tenant: str, name: str) -> str:
    """The id of a tenant's template of this name."""
    return str(uuid.uuid5(NAMESPACE, f"template|{len(tenant)}:{tenant}|{name}"))


def template_hash(template: Template) -> str:
    """What names this content and no other: 32 hex digits."""
    ordered = dict(sorted(template.texts.items()))
    bare = msgspec.structs.replace(template, version=0, recorded_at=0, hash="", texts=ordered)
    return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()[:32]


def drafted(
    tenant: str,
    name: str,
    texts: Mapping[str, Texts],
    *,
    syntax: Syntax = Syntax.TWIG,
    default: str = "",
    schema: bytes | msgspec.Raw = b"null",
    description: str = "",
) -> Template:
    """A version 0, compiled and found good. Raises Refused with what and where (``texts.en.html: line 3: …``)."""
    languages = {language_tag(language): found for language, found in texts.items()}
    made = Template(
        template_id=template_id(tenant, name),
        version=0,
        tenant=tenant,
        name=name,
        hash="",
        syntax=syntax,
        texts=languages,
        default=language_tag(default) or ("default" if "default" in languages else next(iter(languages), "")),
        # Blanks and line ends are no news.
        schema=msgspec.Raw(msgspec.json.encode(msgspec.json.decode(schema))),
        description=description,
        recorded_at=0,
    )
    _check(made)
    return msgspec.structs.replace(made, hash=template_hash(made))


def language_of(template: Template, wanted: str) -> str:
    """The template's language for somebody who wants ``en-GB``: that, else ``en``, else the default."""
    return next((tag for tag in fallbacks(wanted) if tag in template.texts), template.default)


def fallbacks(wanted: str) -> Iterator[str]:
    """Yield the language that is wanted and what it falls back to: ``en-gb``, ``en``."""
    tag = language_tag(wanted)
    while tag:
        yield tag
        tag = tag.rpartition("-")[0]


def is_localized(template: Template) -> bool:
    """Return whether one of its texts names a localization."""
    if template.syntax is not Syntax.EXTRAHORIZON:
        return False
    return any("{{" in getattr(texts, part) for texts in template.texts.values() for part in PARTS)


def render(
    template: Template,
    language: str,
    values: Mapping[str, Any],
    *,
    now: Millis,
    localize: Localize = nothing_localized,
) -> Rendered:
    """What the template says. Raises Refused with what and where."""
    _check_values(template, values)
    chosen = language_of(template, language)
    texts = template.texts[chosen]

    def filled(text: Compiled) -> str:
        return text.render(values, now, localize) if isinstance(text, Placeholders) else text.render(values, now)

    said = {part: _said(template, chosen, part, filled) for part in PARTS}
    _refuse(text_problem(said["subject"]), f"texts.{chosen}.subject")
    ref = TemplateRef(id=template.template_id, version=template.version, language=chosen)
    return Rendered(subject=said["subject"], html=said["html"], text=said["text"] if texts.text else "", ref=ref)


def language_tag(name: str) -> str:
    """Return a language's name as it is written here: ``en-gb`` of ``EN_gb``."""
    return name.replace("_", "-").lower()


def _said(template: Template, language: str, part: str, filled: Callable[[Compiled], str]) -> str:
    source: str = getattr(template.texts[language], part)
    try:
        return filled(_compiled(source, template.syntax, part == "html"))
    except Refused as refused:
        raise type(refused)(str(refused), f"texts.{language}.{part}") from None


@functools.lru_cache(maxsize=128)
def _compiled(source: str, syntax: Syntax, html: bool) -> Compiled:
    return compiled(source, syntax, html=html)


# --------------------------------------------------------------- submission
def _check(draft: Template) -> None:
    _refuse(None if _NAME.fullmatch(draft.name) else "letters, digits, . _ and -; at most 100", "name")
    _refuse(None if 0 < len(draft.texts) <= LANGUAGES_MAX else f"1 to {LANGUAGES_MAX} languages", "texts")
    _refuse(None if draft.default in draft.texts else "no texts in this language", "default")
    size = len(msgspec.json.encode(draft))
    _refuse(f"{size} bytes; at most {TEMPLATE_MAX}" if size > TEMPLATE_MAX else None, "texts")
    declared = _check_schema(draft.schema)
    for language, texts in draft.texts.items():
        _refuse(None if LANGUAGE.fullmatch(language) else "a language, such as en or en-gb", f"texts.{language}")
        _refuse(None if texts.html or texts.text else "neither html nor text", f"texts.{language}")
        for part in PARTS:
            _check_text(getattr(texts, part), draft.syntax, f"texts.{language}.{part}", declared)


def _check_text(source: str, syntax: Syntax, where: str, declared: frozenset[str] | None) -> None:
    try:
        mentions = compiled(source, syntax, html=where.endswith(".html")).mentions
    except Refused as refused:
        raise Refused(str(refused), where) from None
    for line, path in mentions:
        if declared is not None and path and path[0] not in declared | {TRACKING_HASH}:
            raise Refused(f"line {line}: {path[0]} is not among the schema's properties", where)


def _check_schema(raw: msgspec.Raw) -> frozenset[str] | None:
    """The variables that the schema declares; None where it is open."""
    schema = msgspec.json.decode(raw)
    if schema is None:
        return None
    _check_keywords(schema, "schema", 0)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise Refused(error.message[:200], ".".join(("schema", *map(str, error.absolute_path)))) from None
    declared = schema.get("properties")
    return None if declared is None or schema.get("additionalProperties") else frozenset(declared)


def _check_keywords(schema: Any, where: str, depth: int) -> None:
    if isinstance(schema, bool) and depth:
        return
    _refuse(None if isinstance(schema, dict) else "not a JSON schema", where)
    _refuse("nested too deeply" if depth > 20 else None, where)
    for keyword in schema:
        _refuse(None if keyword in _KEYWORDS else f"{keyword}: not a keyword that is taken here", where)
    properties = schema.get("properties", {})
    _refuse(None if isinstance(properties, dict) else "not an object", f"{where}.properties")
    for name, inner in properties.items():
        _check_keywords(inner, f"{where}.properties.{name}", depth + 1)
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            _check_keywords(schema[keyword], f"{where}.{keyword}", depth + 1)


def _check_values(template: Template, values: Mapping[str, Any]) -> None:
    schema = msgspec.json.decode(template.schema)
    if schema is None:
        return
    # An empty registry: a schema that refers elsewhere makes nobody fetch anything.
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    declared = schema.get("properties", {})
    given = {name: value for name, value in values.items() if name != TRACKING_HASH or name in declared}
    error = next(iter(validator.iter_errors(given)), None)
    if error is not None:
        raise Refused(error.message[:200], ".".join(("variables", *map(str, error.absolute_path))))


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise Refused(problem, where)
