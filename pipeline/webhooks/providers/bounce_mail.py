"""Adapter of inbound mail: bounces, complaints, auto-replies and unsubscribe requests become DeliveryEvents.

RFC 3464 and 6533 (DSN), RFC 5965 (ARF), RFC 3834 (auto-replies), RFC 2369 (unsubscribe by mail). One message may report
on several recipients. Anybody can write such a mail, so a report counts only with an address or a Message-ID that we
signed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.errors import InvalidSignatureError, Unproven, Unrecognised
from pipeline.webhooks import timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.bounces.dsn import IMPLIED
from pipeline.webhooks.bounces.parse import read
from pipeline.webhooks.bounces.report import BounceReport, ReportForm
from pipeline.webhooks.redaction import REDACTED, redact_all, redactor
from topics import ids
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId, Millis

HORIZON_S: Final = 5 * 24 * 60 * 60
"""Mail servers repeat for five days (RFC 5321 §4.5.4.1)."""

ACTIONS: Final = {
    "failed": EventKind.BOUNCED,
    "failure": EventKind.BOUNCED,  # not defined by RFC 3464, but used
    "expired": EventKind.BOUNCED,
    "delayed": EventKind.DEFERRED,
    "delivered": EventKind.DELIVERED,
    # Passed on to a server that reports no success, or to a mailing list; nothing more will be reported.
    "relayed": EventKind.SENT,
    "expanded": EventKind.SENT,
}
# https://www.iana.org/assignments/marf-parameters; the other types do not come from a recipient.
FEEDBACK: Final = {
    "abuse": EventKind.COMPLAINED,
    "fraud": EventKind.COMPLAINED,
    "opt-out": EventKind.UNSUBSCRIBED,
    "opt-out-list": EventKind.UNSUBSCRIBED,
}
FORMS: Final = {
    ReportForm.REPLY: EventKind.REPLIED,
    ReportForm.UNSUBSCRIBE: EventKind.UNSUBSCRIBED,
}
_MAX_TEXT_CHARS: Final = 2_000
_QUOTED_ADDRESS: Final = re.compile(r'"[^"\n]{1,100}"@[^\s<>"]{1,300}')
"""An address whose local part is in quotation marks (RFC 5321 §4.1.2)."""
_DECODER: Final = msgspec.json.Decoder(BounceReport)


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError: mail arrives at the inbound listener, never as a webhook."""
    raise InvalidSignatureError("bounced mail is taken at /inbound/mail, not as a webhook")


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the reports of a message, one per recipient, each as JSON."""
    return [msgspec.json.encode(report) for report in read(body, headers)]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one report as a DeliveryEvent. Raise Unrecognised, or Unproven if it carries no signature of ours."""
    try:
        report = _DECODER.decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unrecognised(f"not a report: {error}") from None
    email_id = _proven_email_id(report, context)
    kind = _kind(report)
    verdict = classify.classify_reply(report.status, report.diagnostic)
    return DeliveryEvent(
        email_id=email_id,
        event_id=_event_id(report, email_id),
        kind=kind,
        occurred_at=_occurred_at(report, context),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=classify.address_bounce_class(verdict, report.forwarded) if kind is EventKind.BOUNCED else None,
        bounce_type=report.action or report.form,
        bounce_subtype=report.status,
        code=verdict.code,
        enhanced=verdict.enhanced,
        text=_redacted(report, report.diagnostic),
        native=_native(report),
    )


def _proven_email_id(report: BounceReport, context: EventContext) -> EmailId:
    """Return the email that one of our signed tokens in the report names. Raise Unproven if there is none.

    The form decides which tokens count: only those that a genuine report of this form contains.
    """
    readers = context.token_readers
    by_original = [readers.message_id(message_id) for message_id in report.references]
    by_address = [readers.verp(address) for address in report.to]
    candidates = {
        ReportForm.FEEDBACK: by_original,
        ReportForm.UNSUBSCRIBE: [readers.unsubscribe(address) for address in report.to],
        ReportForm.DSN: by_address,
        ReportForm.TEXT: by_address,
    }.get(report.form, by_address + by_original)
    email_id = next((candidate for candidate in candidates if candidate is not None), None)
    if email_id is None:
        raise Unproven(f"{report.form}: no address or Message-ID of ours with our signature")
    return email_id


def _kind(report: BounceReport) -> EventKind:
    if report.form in (ReportForm.DSN, ReportForm.TEXT):
        # With an unknown action, the first digit of the status says whether the failure is final (RFC 3463 §2).
        return ACTIONS.get(report.action) or ACTIONS.get(IMPLIED.get(report.status[:1], ""), EventKind.UNKNOWN)
    if report.form is ReportForm.FEEDBACK:
        return FEEDBACK.get(report.action, EventKind.UNKNOWN)
    return FORMS.get(report.form, EventKind.UNKNOWN)


def _event_id(report: BounceReport, email_id: EmailId) -> str:
    """Return an id that is the same for every copy of the message, whichever way it arrives."""
    distinguishing = (report.action, report.final_recipient.casefold(), report.status)
    return ids.event_id("mail", email_id, report.identity, report.form, *distinguishing)


def _occurred_at(report: BounceReport, context: EventContext) -> Millis:
    try:
        return timestamps.from_rfc5322(report.at)
    except Unrecognised:
        return context.received_at


def _redacted(report: BounceReport, text: str) -> str:
    redact = redactor([report.final_recipient, report.original_recipient])
    return redact(redact_all(_QUOTED_ADDRESS.sub(REDACTED, text)))[:_MAX_TEXT_CHARS]


def _native(report: BounceReport) -> msgspec.Raw:
    """Return the report's fields without addresses and without text written by a person."""
    texts: dict[str, Any] = {
        "form": report.form,
        "action": report.action,
        "status": report.status,
        "diagnostic": report.diagnostic,
        "remote_mta": report.remote_mta,
        "reporting_mta": report.reporting_mta,
        "writer": report.writer,
    }
    native: dict[str, Any] = {name: _redacted(report, text) for name, text in texts.items() if text}
    native |= {name: True for name in ("forwarded", "truncated") if getattr(report, name)}
    return msgspec.Raw(msgspec.json.encode(native))
