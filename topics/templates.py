"""`templates`: what is said in a message before it is known to whom; a record per version, never changed."""

from enum import StrEnum

import msgspec

from topics.record import Millis, Record, RecordPart

TEMPLATE_MAX_BYTES = 250_000
"""Bytes of a version on the log: it is read whole for every message that uses it."""


LOCALIZATIONS_NAME = "@localizations"
"""The name under which a tenant's localizations lie here: a language's text is JSON, a text by key.

No template can have this name, today or before. So processes of before, which know no localizations, read them as
one template more that nobody asks for.
"""
LOCALIZATIONS_MAX_BYTES = 500_000
"""Bytes of all of a tenant's localizations on the log."""


class TemplateSyntax(StrEnum):
    """How a text names its variables."""

    TWIG = "twig"
    """``{{ name }}``, ``{% if %}``."""
    FRESHMAIL = "freshmail"
    """``$$name$$``, and Twig's, as FreshMail takes both."""
    EXTRAHORIZON = "extrahorizon"
    """``$content.name``."""


class TemplateTexts(RecordPart, frozen=True, kw_only=True):
    """One language's texts. An empty text is absent."""

    subject: str = ""
    html: str = ""
    text: str = ""


class Template(Record, tag="template/1", frozen=True, kw_only=True):
    """One version of one tenant's template. A request that was accepted with it stays with it."""

    template_id: str
    """UUID, made of tenant and name."""
    version: int
    """From 1; a number may be missing, none is given twice."""
    tenant: str
    name: str
    hash: str
    """Of all that follows: the same content pushed again is the same version."""
    syntax: TemplateSyntax
    texts: dict[str, TemplateTexts]
    """By language: ``en-gb``, ``en``; lower case."""
    default: str
    """The language of those whose own isn't there."""
    schema: msgspec.Raw = msgspec.Raw(b"null")
    """JSON schema of the variables; null: any."""
    description: str = ""
    recorded_at: Millis

    @property
    def key(self) -> str:
        """Its key on the topic: compaction keeps every version."""
        return f"{self.template_id}/{self.version}"


class TemplateRef(RecordPart, frozen=True, kw_only=True):
    """The version and language that an email was made from."""

    id: str
    version: int
    language: str
