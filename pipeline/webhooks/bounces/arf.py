"""A feedback report in (RFC 5965, "ARF"), what the recipient's provider tells of our message out."""

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


def read(letter: MimeMessage, base: BounceReport) -> list[BounceReport]:
    """The one report of a feedback message; empty if it is none."""
    part, original = letter.first(TYPE), original_headers(letter)
    if part is None:
        # Microsoft's junk mail reporting attaches the message and says the recipient in a header field of its own.
        return [_report(base, HeaderFields(b""), original, "abuse")] if _JMRP in original else []
    fields = HeaderFields(part.content.lstrip(b"\r\n"))
    kind = _TYPE.search(fields.get("feedback-type").lower())
    return [_report(base, fields, original, kind[0] if kind else "")]


def original_headers(letter: MimeMessage) -> HeaderFields:
    """The header fields of the original that a message returns."""
    part: MimePart | None = letter.first(*ORIGINALS)
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
