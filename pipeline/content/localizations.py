"""A tenant's localizations: the texts that templates name as ``{{key,…}}``, by language and key. Pure.

They lie on the topic of templates, as one more template whose name nobody can choose; a push replaces all of them.
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
"""The language of those whose own isn't there, if no other is chosen."""
FILE_EXTENSION: Final = ".json"
_decode_texts: Final = msgspec.json.Decoder(dict[str, str]).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class LocalizationSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is pushed."""

    languages: Annotated[
        dict[str, dict[str, str]],
        Meta(description="By language (en, nl, en-gb): a text by key, with $1, $2 for arguments"),
    ]
    default: Annotated[str, Meta(description="The language that has every key, for those whose own hasn't")] = (
        DEFAULT_LANGUAGE
    )


class LocalizationSetView(msgspec.Struct, frozen=True, kw_only=True):
    """The set as we answer with it."""

    version: int
    hash: str
    default: str
    languages: dict[str, dict[str, str]]
    created_at: Annotated[int, Meta(description="Unix time in milliseconds")]


_decode_set: Final = msgspec.json.Decoder(LocalizationSet).decode


def parse_draft(tenant: str, body: bytes) -> Template:
    """Return the draft of a pushed set. Raises Refused with what and where."""
    try:
        given = _decode_set(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(str(error).replace("`", ""), "body") from None
    return make_draft(tenant, given.languages, given.default)


def draft_from_files(tenant: str, files: Mapping[str, str], default: str = DEFAULT_LANGUAGE) -> Template:
    """Return the draft of a folder's files: ``EN.json`` has English texts by key. Raises Refused with what and where.

    ``files``: by name.
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
    """Return a version 0 that was found good. Raises Refused with what and where (``nl.greeting: …``)."""
    tagged = {language_tag(language): texts for language, texts in languages.items()}
    if not 0 < len(tagged) <= MAX_LANGUAGES or len(tagged) != len(languages):
        raise Refused(f"1 to {MAX_LANGUAGES} languages, each once", "languages")
    chosen = language_tag(default)
    if chosen not in tagged:
        raise Refused(f"there are no texts in {chosen}, for those whose language isn't there", "default")
    for language, texts in tagged.items():
        _check(language, texts, tagged[chosen])
    made = Template(
        template_id=template_id(tenant, LOCALIZATIONS_NAME),
        version=0,
        tenant=tenant,
        name=LOCALIZATIONS_NAME,
        hash="",
        syntax=TemplateSyntax.EXTRAHORIZON,
        texts={language: TemplateTexts(text=_encode(texts).decode()) for language, texts in tagged.items()},
        default=chosen,
        recorded_at=0,
    )
    if (size := len(msgspec.json.encode(made))) > LOCALIZATIONS_MAX_BYTES:
        raise Refused(f"{size} bytes; at most {LOCALIZATIONS_MAX_BYTES}", "languages")
    return msgspec.structs.replace(made, hash=template_hash(made))


def localization_set_view(template: Template) -> LocalizationSetView:
    """Return a set with its texts taken apart."""
    return LocalizationSetView(
        version=template.version,
        hash=template.hash,
        default=template.default,
        languages={language: _decode_texts(texts.text.encode()) for language, texts in template.texts.items()},
        created_at=template.recorded_at,
    )


class Localizer:
    """A set's texts for somebody who wants a language; each key falls back by itself, to the default in the end."""

    def __init__(self, found: Template | None, wanted: str) -> None:
        """``found``: the set; None where the tenant has none."""
        tags = () if found is None else dict.fromkeys((*language_fallbacks(wanted), found.default))
        self._texts = [
            _decode_texts(found.texts[tag].text.encode()) for tag in tags if found is not None and tag in found.texts
        ]

    def __call__(self, key: str) -> str:
        """Return the text of a key. Raises MissingLocalization."""
        for texts in self._texts:
            if key in texts:
                return texts[key]
        raise MissingLocalization(f"there is no localization {key}; `mailfold templates localizations push` makes it")


def _check(language: str, texts: Mapping[str, str], complete: Mapping[str, str]) -> None:
    if not LANGUAGE_TAG_PATTERN.fullmatch(language) or language == "default":
        raise Refused("a language, such as en or en-gb", language)
    for key, text in texts.items():
        if not LOCALIZATION_KEY.fullmatch(key):
            raise Refused("a key: letters, digits, . _ and -; at most 200", f"{language}.{key[:100]}")
        if key not in complete:
            raise Refused("not in the default language, which has to have every key", f"{language}.{key}")
        if "{{" in text or "$content." in text:
            raise Refused(
                "values are filled in as $1, $2, in the order in which the template gives them", f"{language}.{key}"
            )
