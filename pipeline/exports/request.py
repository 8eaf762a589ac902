"""Define what an export contains. Pure; the routes and `mailfold export` make requests."""

from enum import StrEnum
from typing import Final

import msgspec

from projections.email_listing import EmailFilter, EmailPosition
from topics.record import Millis

SCHEMA_VERSION: Final = 1
"""Version of the columns and fields; it is raised when one changes its meaning."""


class ExportKind(StrEnum):
    """What the rows of an export are."""

    EMAILS = "emails"
    TIMELINE = "timeline"


class ExportFormat(StrEnum):
    """The format of an export before gzip."""

    CSV = "csv"
    NDJSON = "ndjson"


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An export: the same request gives the same file, byte for byte."""

    tenant: str
    as_of: Millis
    kind: ExportKind = ExportKind.EMAILS
    format: ExportFormat = ExportFormat.CSV
    filter: EmailFilter = EmailFilter()
    masks_addresses: bool = True

    @property
    def file_name(self) -> str:
        """Return a name for the file."""
        return f"{self.kind}-{self.as_of}.{self.format}.gz"


class ExportChunk(msgspec.Struct, frozen=True):
    """A piece of the file, and the position after it; None at the end."""

    data: bytes
    emails: int
    rows: int
    position: EmailPosition | None
