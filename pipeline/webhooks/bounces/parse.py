"""Parse an inbound message into reports, by the first reader that recognises it; `bounce_mail` calls it."""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from pipeline.webhooks.bounces import arf, auto_replies, dsn, mime, non_dsn
from pipeline.webhooks.bounces.mime import MimeMessage
from pipeline.webhooks.bounces.report import BounceReport, ReportForm

ENVELOPE_TO_HEADER: Final = "x-envelope-to"
ENVELOPE_FROM_HEADER: Final = "x-envelope-from"
TRUNCATED_HEADER: Final = "x-truncated"
"""The names of the headers that store the envelope of a message on `provider-webhooks`."""

SIGNED_ADDRESS_PATTERN: Final = re.compile(r"\b([bu]-[a-z2-7]{26}-[a-z2-7]{26}@[a-z0-9.-]{1,255})", re.IGNORECASE)
"""The form of our return paths and unsubscribe addresses; whether one is ours, only its signature shows."""
_RECIPIENT_FIELDS: Final = ("x-original-to", "delivered-to", "envelope-to", "x-delivered-to", "x-apparently-to", "to")
"""Header fields that may name the envelope's recipient, the most reliable first."""


def read(raw: bytes, envelope: Mapping[str, str]) -> list[BounceReport]:
    """Return the reports of a message; one of the form MAIL if no reader recognises it.

    ``envelope`` holds the headers that were stored beside the message.
    """
    message = mime.read(raw)
    to = _signed_addresses(message, envelope.get(ENVELOPE_TO_HEADER, ""))
    base = BounceReport(
        form=ReportForm.MAIL,
        to=to,
        identity=_identity(message, raw),
        at=message.fields.get("date"),
        truncated=TRUNCATED_HEADER in envelope,
    )
    null_sender = (envelope.get(ENVELOPE_FROM_HEADER) or message.fields.get("return-path")).strip() == "<>"
    return (
        dsn.read(message, base)
        or arf.read(message, base)
        or _read_unsubscribe(base, null_sender=null_sender)
        or auto_replies.read_rejection(message, base)
        or (non_dsn.read(message, base) if non_dsn.is_by_mail_system(message) else [])
        # Before the next reader: an auto-reply may have no sender either, and may mention a full mailbox.
        or auto_replies.read(message, base)
        or (non_dsn.read(message, base) if null_sender else [])
        or [msgspec.structs.replace(base, references=auto_replies.answered_message_ids(message))]
    )


def _read_unsubscribe(base: BounceReport, *, null_sender: bool) -> list[BounceReport]:
    """Return the report of a mail to an unsubscribe address; empty for other mail.

    It is read before auto-replies: Apple Mail marks its unsubscribe mail as automatic, and no program replies to this
    address. Without a sender it is a misdirected bounce.
    """
    is_request = not null_sender and any(address.startswith("u-") for address in base.to)
    return [msgspec.structs.replace(base, form=ReportForm.UNSUBSCRIBE)] if is_request else []


def _signed_addresses(message: MimeMessage, envelope: str) -> tuple[str, ...]:
    """Return up to five addresses of our form, from the envelope, else from the header.

    A mailbox or a forwarder may have lost the envelope. The header is as trustworthy: a sender who knows such an
    address could also have sent the mail to it.
    """
    addresses = SIGNED_ADDRESS_PATTERN.findall(envelope)
    if not addresses:
        addresses = [
            address
            for name in _RECIPIENT_FIELDS
            for value in message.fields.all(name)
            for address in SIGNED_ADDRESS_PATTERN.findall(value)
        ]
    return tuple(dict.fromkeys(address.lower() for address in addresses))[:5]


def _identity(message: MimeMessage, raw: bytes) -> str:
    """Return the Message-ID, or a hash of the date and the body, which servers on the way do not change."""
    message_id = message.fields.get("message-id")
    if message_id:
        return message_id[:500]
    date, body = message.fields.get("date"), mime.divide(raw)[1]
    return hashlib.sha256(date.encode("utf-8", "replace") + b"\n" + body.replace(b"\r", b"").rstrip()).hexdigest()
