"""A delivery status notification in (RFC 3464; RFC 6533 for addresses beyond ASCII), one report per recipient out."""

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
"""What a status means where the action is missing."""
_FLAT: Final = re.compile(rb"(?im)^final-recipient: .*\r?\n(?:.+\r?\n){0,12}?action: ")
_EXIM_RELAYED: Final = "(relayed to non-DSN-aware mailer)"
_EXIM_FORWARDED: Final = "(generated from "
_WORD: Final = re.compile(r"[a-z-]+")
_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_ESCAPED: Final = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_SUPPLEMENT: Final = re.compile(r"smtp; {0,3}(.{1,1000}?)>?$", re.IGNORECASE)
"""`<192.0.2.9 #5.0.0 smtp; 550 …>`."""
_WHITESPACE: Final = re.compile(r"\s+")


def read(letter: MimeMessage, base: BounceReport) -> list[BounceReport]:
    """The reports of a notification, on top of what ``base`` says of all; empty if it is none."""
    found = blocks(_content(letter))
    of_recipients = [one for one in found if "final-recipient" in one or ("action" in one and "status" in one)]
    reports = [_report(base, found[0], one) for one in of_recipients[:MAX_RECIPIENTS]]
    return [_told_beside(letter, reports[0])] if len(reports) == 1 else reports


def _told_beside(letter: MimeMessage, report: BounceReport) -> BounceReport:
    """What only the words for people beside a notification say."""
    text = plain_text.own_words(letter)
    if not re.search("[a-z]{3}", report.diagnostic):
        # OpenSMTPD, and others about local mailboxes, give the reason there alone.
        report = msgspec.structs.replace(report, diagnostic=plain_text.reason(text) or report.diagnostic)
    report = msgspec.structs.replace(report, diagnostic=plain_text.with_stage(report.diagnostic, text))
    if report.action == "delivered" and _EXIM_RELAYED in text:
        # Exim calls it delivered when it handed the mail to a server that reports no success (RFC 3464: relayed).
        report = msgspec.structs.replace(report, action="relayed")
    failed = letter.fields.get("x-failed-recipients").strip()
    if _EXIM_FORWARDED in text and "@" in failed and "," not in failed:
        # Exim's Final-Recipient is the address we wrote to; which one it was forwarded to stands here.
        report = msgspec.structs.replace(report, final_recipient=failed, original_recipient=report.final_recipient)
    return report


def _content(letter: MimeMessage) -> bytes:
    """The notification; as text, where a forwarder has flattened the message."""
    part = letter.first(*TYPES)
    text = letter.first("text/plain")
    if part is None and text is not None and _FLAT.search(text.content):
        return text.content
    return b"" if part is None else part.content


def _report(base: BounceReport, of_message: HeaderFields, fields: HeaderFields) -> BounceReport:
    status = _first(_STATUS, fields.get("status"))
    return msgspec.structs.replace(
        base,
        form=ReportForm.DSN,
        action=_first(_WORD, fields.get("action").lower()) or IMPLIED.get(status[:1], ""),
        status=status,
        diagnostic=_diagnostic(fields, status),
        remote_mta=typed(fields.get("remote-mta")),
        reporting_mta=typed(of_message.get("reporting-mta")),
        final_recipient=_address(fields.get("final-recipient")),
        original_recipient=_address(fields.get("original-recipient")),
        at=fields.get("last-attempt-date") or base.at,
    )


def _diagnostic(fields: HeaderFields, status: str) -> str:
    """Return the server's words: gateways leave them to a field of their own, or to the status."""
    said = _WHITESPACE.sub(" ", typed(fields.get("diagnostic-code")))
    if not (status_codes.reply_code(said) or status_codes.enhanced_code(said)):
        more = fields.get("x-supplementary-info") or fields.get("x400-supplementary-info")
        inner = _SUPPLEMENT.search(more)
        said = (inner[1] if inner else more.strip('<>" ')) or said
    return said or ("" if status else fields.get("status"))


def typed(value: str) -> str:
    """A field's value without the type before its semicolon: ``smtp; 550 No such user`` (RFC 3464 §2.1.2)."""
    kind, semicolon, rest = value.partition(";")
    return rest.strip() if semicolon and re.fullmatch(r"[\w-]{1,20}", kind.strip()) else value.strip()


def _address(value: str) -> str:
    r"""RFC 6533 §3 spells what isn't ASCII as ``\x{F6}``."""
    return _ESCAPED.sub(_character, typed(value)).strip("<> ")


def _character(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else found[0]


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[0] if found else ""
