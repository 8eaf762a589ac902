"""Read feedback reports (RFC 5965, "ARF"), in which a recipient's provider reports complaints; `parse` calls it."""

import re
from typing import Final

import msgspec

from pipeline.webhooks.bounces.mime import HeaderFields, MimeMessage, MimePart, divide
from pipeline.webhooks.bounces.report import BounceReport, ReportForm

TYPE: Final = "message/feedback-report"
ORIGINALS: Final = (
    "message/rfc822",
    "message/rfc822-headers",
    "text/rfc822-headers",
    "text/rfc822-header",
    "message/global",
    "message/global-headers",
)
_JMRP: Final = "x-hmxmroriginalrecipient"
_TYPE: Final = re.compile(r"[a-z-]+")


def read(message: MimeMessage, base: BounceReport) -> list[BounceReport]:
    """Return the report of a feedback message; empty for other mail. ``base`` holds the fields common to all forms."""
    part, original = message.first(TYPE), original_headers(message)
    if part is None:
        # Microsoft's junk mail reporting attaches the message and names the recipient in a header field of its own.
        return [_report(base, HeaderFields(b""), original, "abuse")] if _JMRP in original else []
    fields = HeaderFields(part.content.lstrip(b"\r\n"))
    kind = _TYPE.search(fields.get("feedback-type").lower())
    return [_report(base, fields, original, kind[0] if kind else "")]


def original_headers(message: MimeMessage) -> HeaderFields:
    """Return the header fields of the original message that is attached; none if there is no original."""
    part: MimePart | None = message.first(*ORIGINALS)
    return HeaderFields(b"" if part is None else divide(part.content.lstrip(b"\r\n"))[0])


def _report(base: BounceReport, fields: HeaderFields, original: HeaderFields, kind: str) -> BounceReport:
    return msgspec.structs.replace(
        base,
        form=ReportForm.FEEDBACK,
        action=kind,
        references=tuple(original.all("message-id")),
        final_recipient=fields.get("original-rcpt-to").strip("<> "),
        reporting_mta=fields.get("reporting-mta").rpartition(";")[2].strip(),
        writer=fields.get("user-agent"),
    )
