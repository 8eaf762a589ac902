"""Mail that came back as one more provider: a raw message in, one DeliveryEvent per recipient that it reports on out.

RFC 3464 and 6533 (DSN), RFC 5965 (ARF), RFC 3834 (auto-replies), RFC 2369 (unsubscribe by mail). Anybody can write
such a mail: what counts is only what carries a signature of ours.
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
"""Servers try for five days (RFC 5321 §4.5.4.1)."""

ACTIONS: Final = {
    "failed": EventKind.BOUNCED,
    "failure": EventKind.BOUNCED,  # no words of RFC 3464's, but written
    "expired": EventKind.BOUNCED,
    "delayed": EventKind.DEFERRED,
    "delivered": EventKind.DELIVERED,
    # Handed to a server that reports no success, or to a list: custody went on, nobody knows more.
    "relayed": EventKind.SENT,
    "expanded": EventKind.SENT,
}
# https://www.iana.org/assignments/marf-parameters; the rest of them are no word of a recipient's.
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
_WORDS_MAX: Final = 2_000
_QUOTED: Final = re.compile(r'"[^"\n]{1,100}"@[^\s<>"]{1,300}')
"""An address whose local part stands in quotation marks (RFC 5321 §4.1.2)."""
_DECODER: Final = msgspec.json.Decoder(BounceReport)


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise Forged: mail comes by the inbound listener, not as a webhook."""
    raise InvalidSignatureError("bounced mail is taken at /inbound/mail, not as a webhook")


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """What a message reports, recipient by recipient, each as JSON."""
    return [msgspec.json.encode(report) for report in read(body, headers)]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One report in our words. Raises Unrecognised, and Unproven for what bears no signature of ours."""
    try:
        report = _DECODER.decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unrecognised(f"not a report: {error}") from None
    email_id = _proven(report, context)
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
        text=_hidden(report, report.diagnostic),
        native=_native(report),
    )


def _proven(report: BounceReport, context: EventContext) -> EmailId:
    """The email that a signature of ours names: for each form, the one that only it could have brought back."""
    proofs = context.token_readers
    by_original = [proofs.message_id(one) for one in report.references]
    by_address = [proofs.verp(one) for one in report.to]
    found = {
        ReportForm.FEEDBACK: by_original,
        ReportForm.UNSUBSCRIBE: [proofs.unsubscribe(one) for one in report.to],
        ReportForm.DSN: by_address,
        ReportForm.TEXT: by_address,
    }.get(report.form, by_address + by_original)
    email_id = next((one for one in found if one is not None), None)
    if email_id is None:
        raise Unproven(f"{report.form}: no address or Message-ID of ours with our signature")
    return email_id


def _kind(report: BounceReport) -> EventKind:
    if report.form in (ReportForm.DSN, ReportForm.TEXT):
        # Whatever unknown word stands there, the status says whether it is final (RFC 3463 §2).
        return ACTIONS.get(report.action) or ACTIONS.get(IMPLIED.get(report.status[:1], ""), EventKind.UNKNOWN)
    if report.form is ReportForm.FEEDBACK:
        return FEEDBACK.get(report.action, EventKind.UNKNOWN)
    return FORMS.get(report.form, EventKind.UNKNOWN)


def _event_id(report: BounceReport, email_id: EmailId) -> str:
    """The same whenever and by whichever road the message comes again."""
    about = (report.action, report.final_recipient.casefold(), report.status)
    return ids.event_id("mail", email_id, report.identity, report.form, *about)


def _occurred_at(report: BounceReport, context: EventContext) -> Millis:
    try:
        return timestamps.from_rfc5322(report.at)
    except Unrecognised:
        return context.received_at


def _hidden(report: BounceReport, text: str) -> str:
    hide = redactor([report.final_recipient, report.original_recipient])
    return hide(redact_all(_QUOTED.sub(REDACTED, text)))[:_WORDS_MAX]


def _native(report: BounceReport) -> msgspec.Raw:
    """The report's own words; nobody's address, and nothing of what a person wrote."""
    told: dict[str, Any] = {
        "form": report.form,
        "action": report.action,
        "status": report.status,
        "diagnostic": report.diagnostic,
        "remote_mta": report.remote_mta,
        "reporting_mta": report.reporting_mta,
        "writer": report.writer,
    }
    kept: dict[str, Any] = {name: _hidden(report, text) for name, text in told.items() if text}
    kept |= {name: True for name in ("forwarded", "truncated") if getattr(report, name)}
    return msgspec.Raw(msgspec.json.encode(kept))
