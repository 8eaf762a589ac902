"""`templates`: the texts of messages with variables; a record per version, which never changes."""

from enum import StrEnum

import msgspec

from topics.record import Millis, Record, RecordPart

TEMPLATE_MAX_BYTES = 250_000
"""Bytes of a version on the log, at most: it is read as a whole for every message that uses it."""


LOCALIZATIONS_NAME = "@localizations"
"""The name of the template that holds a tenant's localizations: each language's text is JSON with a text by key.

No template could ever have this name. So processes of older versions, which know no localizations, read them as a
template that no request uses.
"""
LOCALIZATIONS_MAX_BYTES = 500_000
"""Bytes of all of a tenant's localizations on the log, at most."""


class TemplateSyntax(StrEnum):
    """The syntax of variables in a text."""

    TWIG = "twig"
    """``{{ name }}``, ``{% if %}``."""
    FRESHMAIL = "freshmail"
    """``$$name$$`` and Twig's syntax, because FreshMail accepts both."""
    EXTRAHORIZON = "extrahorizon"
    """``$content.name``."""


class TemplateTexts(RecordPart, frozen=True, kw_only=True):
    """The texts of one language; an empty text means that there is none."""

    subject: str = ""
    html: str = ""
    text: str = ""


class Template(Record, tag="template/1", frozen=True, kw_only=True):
    """One version of a tenant's template. A request keeps the version that it was accepted with."""

    template_id: str
    """UUID, made from tenant and name."""
    version: int
    """Number from 1; a number may be missing, none is used twice."""
    tenant: str
    name: str
    hash: str
    """Hash of the following fields: the same content pushed again is the same version."""
    syntax: TemplateSyntax
    texts: dict[str, TemplateTexts]
    """Texts by language in lower case: ``en-gb``, ``en``."""
    default: str
    """The language of recipients whose own language has no texts."""
    schema: msgspec.Raw = msgspec.Raw(b"null")
    """JSON schema of the variables; null allows any."""
    description: str = ""
    recorded_at: Millis

    @property
    def key(self) -> str:
        """Return the record's key on the topic; it has the version, so that compaction keeps every version."""
        return f"{self.template_id}/{self.version}"


class TemplateRef(RecordPart, frozen=True, kw_only=True):
    """The version and language that an email was made from."""

    id: str
    version: int
    language: str
