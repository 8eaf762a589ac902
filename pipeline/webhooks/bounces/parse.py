"""A raw message and its envelope in; what it reports, recipient by recipient, out."""

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
"""The names under which an envelope lies beside its message on `provider-webhooks`."""

SIGNED_ADDRESS_PATTERN: Final = re.compile(r"\b([bu]-[a-z2-7]{26}-[a-z2-7]{26}@[a-z0-9.-]{1,255})", re.IGNORECASE)
"""Shaped like an address of ours; whether it is one is the signature's to say."""
_NAMING: Final = ("x-original-to", "delivered-to", "envelope-to", "x-delivered-to", "x-apparently-to", "to")
"""Where a mailbox notes whom a message was for, nearest to the envelope first."""


def read(raw: bytes, envelope: Mapping[str, str]) -> list[BounceReport]:
    """All that a message reports; at least one report, and that of a stranger's mail is just that."""
    letter = mime.read(raw)
    to = _addressed(letter, envelope.get(ENVELOPE_TO_HEADER, ""))
    base = BounceReport(
        form=ReportForm.MAIL,
        to=to,
        identity=_identity(letter, raw),
        at=letter.fields.get("date"),
        truncated=TRUNCATED_HEADER in envelope,
    )
    null_sender = (envelope.get(ENVELOPE_FROM_HEADER) or letter.fields.get("return-path")).strip() == "<>"
    return (
        dsn.read(letter, base)
        or arf.read(letter, base)
        or _unsubscribes(base, null_sender=null_sender)
        or auto_replies.read_rejection(letter, base)
        or (non_dsn.read(letter, base) if non_dsn.is_by_mail_system(letter) else [])
        # A person's machine has no sender either, and may speak of a full mailbox: first who says that it answers.
        or auto_replies.read(letter, base)
        or (non_dsn.read(letter, base) if null_sender else [])
        or [msgspec.structs.replace(base, references=auto_replies.answered_message_ids(letter))]
    )


def _unsubscribes(base: BounceReport, *, null_sender: bool) -> list[BounceReport]:
    """Whoever writes to that address means it: no program answers to it, and Apple Mail's own words are auto-replied.

    What has no sender is a bounce gone astray.
    """
    wanted = not null_sender and any(address.startswith("u-") for address in base.to)
    return [msgspec.structs.replace(base, form=ReportForm.UNSUBSCRIBE)] if wanted else []


def _addressed(letter: MimeMessage, envelope: str) -> tuple[str, ...]:
    """Addresses of our shape: of the envelope, else (a mailbox or a forwarder lost it) of the header.

    Whoever can write such an address into a header could as well have written to it.
    """
    named = SIGNED_ADDRESS_PATTERN.findall(envelope)
    if not named:
        named = [
            found
            for name in _NAMING
            for value in letter.fields.all(name)
            for found in SIGNED_ADDRESS_PATTERN.findall(value)
        ]
    return tuple(dict.fromkeys(address.lower() for address in named))[:5]


def _identity(letter: MimeMessage, raw: bytes) -> str:
    """Its Message-ID; else a hash of what no server on the way adds to."""
    given = letter.fields.get("message-id")
    if given:
        return given[:500]
    date, body = letter.fields.get("date"), mime.divide(raw)[1]
    return hashlib.sha256(date.encode("utf-8", "replace") + b"\n" + body.replace(b"\r", b"").rstrip()).hexdigest()
