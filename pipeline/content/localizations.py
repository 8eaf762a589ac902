"""Parse, check and look up a tenant's localizations: the texts that templates name as ``{{key,…}}``. Pure.

The routes and commands for localizations call it, and those that render templates. A tenant's localizations
are stored on the topic of templates as one template with a reserved name; a push replaces all of them.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pipeline.content.placeholders import LOCALIZATION_KEY
from pipeline.content.templates import (
    LANGUAGE_TAG_PATTERN,
    MAX_LANGUAGES,
    language_fallbacks,
    language_tag,
    template_hash,
    template_id,
)
from pipeline.errors import MissingLocalization, Refused
from topics.templates import LOCALIZATIONS_MAX_BYTES, LOCALIZATIONS_NAME, Template, TemplateSyntax, TemplateTexts

DEFAULT_LANGUAGE: Final = "en"
"""The default of a set that names no default language."""
FILE_EXTENSION: Final = ".json"
_decode_texts: Final = msgspec.json.Decoder(dict[str, str]).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class LocalizationSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a push."""

    languages: Annotated[
        dict[str, dict[str, str]],
        Meta(description="By language (en, nl, en-gb): a text by key, with $1, $2 for arguments"),
    ]
    default: Annotated[
        str, Meta(description="The language that has every key, used where a text is missing in the wanted language")
    ] = DEFAULT_LANGUAGE


class LocalizationSetView(msgspec.Struct, frozen=True, kw_only=True):
    """A set as the API shows it."""

    version: int
    hash: str
    default: str
    languages: dict[str, dict[str, str]]
    created_at: Annotated[int, Meta(description="Unix time in milliseconds")]


_decode_set: Final = msgspec.json.Decoder(LocalizationSet).decode


def parse_draft(tenant: str, body: bytes) -> Template:
    """Return the draft of a pushed set. Raise Refused with the place of the problem."""
    try:
        pushed = _decode_set(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), "body") from None
    return make_draft(tenant, pushed.languages, pushed.default)


def draft_from_files(tenant: str, files: Mapping[str, str], default: str = DEFAULT_LANGUAGE) -> Template:
    """Return the draft of a folder's files: ``EN.json`` has English texts by key. Raise Refused.

    ``files``: their contents by name.
    """
    languages: dict[str, dict[str, str]] = {}
    for name, content in sorted(files.items()):
        if name.endswith(FILE_EXTENSION):
            try:
                languages[name.removesuffix(FILE_EXTENSION)] = _decode_texts(content.encode())
            except (msgspec.MsgspecError, UnicodeError) as error:
                raise Refused(str(error).replace("`", ""), name) from None
    return make_draft(tenant, languages, default)


def make_draft(tenant: str, languages: Mapping[str, Mapping[str, str]], default: str = DEFAULT_LANGUAGE) -> Template:
    """Return a valid set as version 0. Raise Refused with the place of the problem (``nl.greeting: …``)."""
    texts_by_tag = {language_tag(language): texts for language, texts in languages.items()}
    if not 0 < len(texts_by_tag) <= MAX_LANGUAGES or len(texts_by_tag) != len(languages):
        raise Refused(f"1 to {MAX_LANGUAGES} languages, each once", "languages")
    default_tag = language_tag(default)
    if default_tag not in texts_by_tag:
        raise Refused(f"there are no texts in {default_tag}, for those whose language isn't there", "default")
    for language, texts in texts_by_tag.items():
        _check_texts(language, texts, texts_by_tag[default_tag])
    draft = Template(
        template_id=template_id(tenant, LOCALIZATIONS_NAME),
        version=0,
        tenant=tenant,
        name=LOCALIZATIONS_NAME,
        hash="",
        syntax=TemplateSyntax.EXTRAHORIZON,
        texts={language: TemplateTexts(text=_encode(texts).decode()) for language, texts in texts_by_tag.items()},
        default=default_tag,
        recorded_at=0,
    )
    if (size := len(msgspec.json.encode(draft))) > LOCALIZATIONS_MAX_BYTES:
        raise Refused(f"{size} bytes; at most {LOCALIZATIONS_MAX_BYTES}", "languages")
    return msgspec.structs.replace(draft, hash=template_hash(draft))


def localization_set_view(template: Template) -> LocalizationSetView:
    """Return a stored set as the API shows it."""
    return LocalizationSetView(
        version=template.version,
        hash=template.hash,
        default=template.default,
        languages={language: _decode_texts(texts.text.encode()) for language, texts in template.texts.items()},
        created_at=template.recorded_at,
    )


class Localizer:
    """Looks up a set's texts in a language; a missing key is looked up in the language's fallbacks and the default."""

    def __init__(self, template: Template | None, language: str) -> None:
        """Decode the texts of a language and its fallbacks.

        ``template``: the stored set; None if the tenant has none.
        """
        tags = () if template is None else dict.fromkeys((*language_fallbacks(language), template.default))
        self._texts = [
            _decode_texts(template.texts[tag].text.encode())
            for tag in tags
            if template is not None and tag in template.texts
        ]

    def __call__(self, key: str) -> str:
        """Return the text of a key. Raise MissingLocalization."""
        for texts in self._texts:
            if key in texts:
                return texts[key]
        raise MissingLocalization(f"there is no localization {key}; `mailfold templates localizations push` makes it")


def _check_texts(language: str, texts: Mapping[str, str], default_texts: Mapping[str, str]) -> None:
    """Raise Refused for an invalid language, key or text, and for a key that the default language doesn't have."""
    if not LANGUAGE_TAG_PATTERN.fullmatch(language) or language == "default":
        raise Refused("a language, such as en or en-gb", language)
    for key, text in texts.items():
        if not LOCALIZATION_KEY.fullmatch(key):
            raise Refused("a key: letters, digits, . _ and -; at most 200", f"{language}.{key[:100]}")
        if key not in default_texts:
            raise Refused("not in the default language, which has to have every key", f"{language}.{key}")
        if "{{" in text or "$content." in text:
            raise Refused(
                "values are filled in as $1, $2, in the order in which the template gives them", f"{language}.{key}"
            )
