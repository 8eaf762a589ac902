"""Read delivery status notifications (RFC 3464, and RFC 6533 for addresses beyond ASCII); `parse` calls it."""

import re
from typing import Final

import msgspec

from pipeline.webhooks import status_codes
from pipeline.webhooks.bounces import plain_text
from pipeline.webhooks.bounces.mime import HeaderFields, MimeMessage, blocks
from pipeline.webhooks.bounces.report import BounceReport, ReportForm

TYPES: Final = ("message/delivery-status", "message/global-delivery-status")
MAX_RECIPIENTS: Final = 100
IMPLIED: Final = {"4": "delayed", "5": "failed"}
"""The action that the first digit of a status implies where the action is missing."""
_FLATTENED: Final = re.compile(rb"(?im)^final-recipient: .*\r?\n(?:.+\r?\n){0,12}?action: ")
_EXIM_RELAYED: Final = "(relayed to non-DSN-aware mailer)"
_EXIM_FORWARDED: Final = "(generated from "
_WORD: Final = re.compile(r"[a-z-]+")
_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_ESCAPED: Final = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_SUPPLEMENT: Final = re.compile(r"smtp; {0,3}(.{1,1000}?)>?$", re.IGNORECASE)
"""A supplementary field such as `<192.0.2.9 #5.0.0 smtp; 550 …>`."""
_WHITESPACE: Final = re.compile(r"\s+")


def read(message: MimeMessage, base: BounceReport) -> list[BounceReport]:
    """Return one report per recipient of a notification; empty for other mail.

    ``base`` holds the fields that are common to all of them.
    """
    field_blocks = blocks(_notification(message))
    recipient_blocks = [
        block for block in field_blocks if "final-recipient" in block or ("action" in block and "status" in block)
    ]
    reports = [_report(base, field_blocks[0], block) for block in recipient_blocks[:MAX_RECIPIENTS]]
    return [_complete_from_text(message, reports[0])] if len(reports) == 1 else reports


def _complete_from_text(message: MimeMessage, report: BounceReport) -> BounceReport:
    """Return the report with what is only in the human-readable text beside the notification."""
    text = plain_text.own_words(message)
    if not re.search("[a-z]{3}", report.diagnostic):
        # OpenSMTPD, and other servers for local mailboxes, put the reason only there.
        report = msgspec.structs.replace(report, diagnostic=plain_text.reason(text) or report.diagnostic)
    report = msgspec.structs.replace(report, diagnostic=plain_text.with_stage(report.diagnostic, text))
    if report.action == "delivered" and _EXIM_RELAYED in text:
        # Exim reports `delivered` for mail passed on to a server that reports no success; RFC 3464 calls it relayed.
        report = msgspec.structs.replace(report, action="relayed")
    failed = message.fields.get("x-failed-recipients").strip()
    if _EXIM_FORWARDED in text and "@" in failed and "," not in failed:
        # Exim's Final-Recipient is the address to which we sent; this field has the one to which it was forwarded.
        report = msgspec.structs.replace(report, final_recipient=failed, original_recipient=report.final_recipient)
    return report


def _notification(message: MimeMessage) -> bytes:
    """Return the notification, or the text if a forwarder has flattened the message into it."""
    part = message.first(*TYPES)
    text = message.first("text/plain")
    if part is None and text is not None and _FLATTENED.search(text.content):
        return text.content
    return b"" if part is None else part.content


def _report(base: BounceReport, message_fields: HeaderFields, fields: HeaderFields) -> BounceReport:
    status = _first(_STATUS, fields.get("status"))
    return msgspec.structs.replace(
        base,
        form=ReportForm.DSN,
        action=_first(_WORD, fields.get("action").lower()) or IMPLIED.get(status[:1], ""),
        status=status,
        diagnostic=_diagnostic(fields, status),
        remote_mta=without_type(fields.get("remote-mta")),
        reporting_mta=without_type(message_fields.get("reporting-mta")),
        final_recipient=_address(fields.get("final-recipient")),
        original_recipient=_address(fields.get("original-recipient")),
        at=fields.get("last-attempt-date") or base.at,
    )


def _diagnostic(fields: HeaderFields, status: str) -> str:
    """Return the server's reply; some gateways put it into a supplementary field or into the status."""
    reply = _WHITESPACE.sub(" ", without_type(fields.get("diagnostic-code")))
    if not (status_codes.reply_code(reply) or status_codes.enhanced_code(reply)):
        supplement = fields.get("x-supplementary-info") or fields.get("x400-supplementary-info")
        quoted = _SUPPLEMENT.search(supplement)
        reply = (quoted[1] if quoted else supplement.strip('<>" ')) or reply
    return reply or ("" if status else fields.get("status"))


def without_type(value: str) -> str:
    """Return a field's value without the type before its semicolon: ``smtp; 550 No such user`` (RFC 3464 §2.1.2)."""
    kind, semicolon, rest = value.partition(";")
    return rest.strip() if semicolon and re.fullmatch(r"[\w-]{1,20}", kind.strip()) else value.strip()


def _address(value: str) -> str:
    r"""Return an address without its type, with escapes such as ``\x{F6}`` replaced (RFC 6533 §3)."""
    return _ESCAPED.sub(_character, without_type(value)).strip("<> ")


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else match[0]


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[0] if match else ""
