"""Adapter of SendGrid's Event Webhook and of the sandbox provider, which sends the same format.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, split_array
from pipeline.webhooks.keys import p256_key, readable_keys
from pipeline.webhooks.redaction import redact_all, redacted_fields, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

SIGNATURE_HEADER: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER: Final = "X-Twilio-Email-Event-Webhook-Timestamp"
HORIZON_S: Final = 24 * 60 * 60

KINDS: Final = {
    "processed": EventKind.QUEUED,
    "deferred": EventKind.DEFERRED,
    "delivered": EventKind.DELIVERED,
    "bounce": EventKind.BOUNCED,
    "dropped": EventKind.DROPPED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "spamreport": EventKind.COMPLAINED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "group_unsubscribe": EventKind.UNSUBSCRIBED,
}

# A dropped event is a suppression, unless its reason begins with one of these: then SendGrid could not send it.
FAILURES: Final = ("spam content", "invalid smtpapi header", "recipient list over package quota")

# What SendGrid's classification says about the *address*. "Unclassified" says nothing: then `type` decides.
# https://www.twilio.com/docs/sendgrid/ui/analytics-and-reporting/bounce-and-block-classifications
CLASSES: Final = {
    "invalid address": BounceClass.HARD,
    "mailbox unavailable": BounceClass.SOFT,
    "technical": BounceClass.SOFT,
    "content": BounceClass.SOFT,
    "reputation": BounceClass.SOFT,
    "frequency or volume": BounceClass.SOFT,
    "frequency or volume too high": BounceClass.SOFT,
}

_PERSONAL: Final = frozenset({"email", "ip"})
_VERBATIM: Final = frozenset({"url", "smtp-id", "sg_message_id", "sg_event_id"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless a public key verifies the signature, made at most ``max_age_s`` ago.

    ECDSA over P-256 with SHA-256 of the timestamp header's bytes followed by the raw body; a key is base64 DER, as
    SendGrid's settings page shows it, or PEM.
    https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
    """
    signature, timestamp = (
        signatures.required_header(incoming, SIGNATURE_HEADER),
        signatures.required_header(incoming, TIMESTAMP_HEADER),
    )
    raw, signed = signatures.from_base64(signature), timestamp.encode("latin-1", "replace") + incoming.body
    if not any(_signed_by(key, raw, signed) for key in readable_keys(p256_key, keys)):
        raise InvalidSignatureError("the webhook's signature is not its provider's")
    signatures.verify_fresh(timestamp, now_ms, max_age_s)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events of a request, each as its own bytes. Raise Unrecognised."""
    return split_array(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name, text = fields.text("event"), fields.text("reason") or fields.text("response")
    if not name:
        raise Unrecognised("an object without `event`")
    redact = redactor([fields.text("email")])
    kind = _kind(name, text)
    code, enhanced = status_codes.reply_code(text), status_codes.enhanced_code(fields.text("status"), text)
    named = context.named_email(fields.echo(), fields.text("smtp-id"))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("timestamp"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine="sg_machine_open" if fields.true("sg_machine_open") else "",
        bounce_class=classify.webhook_bounce_class(_bounce_class(fields), code, enhanced, text)
        if kind is EventKind.BOUNCED
        else None,
        bounce_type=fields.text("type"),
        bounce_subtype=fields.text("bounce_classification"),
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(fields.text("url")),
        user_agent=redact(fields.text("useragent")),
        provider_message_id=fields.text("sg_message_id"),
        native=redacted_fields(fields.raw, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _event_id(fields: EventFields, context: EventContext) -> str:
    native_id = fields.text("sg_event_id")
    if native_id:
        return f"sendgrid:{native_id}"
    parts = ("sg_message_id", "event", "email", "timestamp", "url")
    return ids.event_id("sendgrid", context.provider, *(fields.text(part) for part in parts))


def _kind(name: str, text: str) -> EventKind:
    kind = KINDS.get(name, EventKind.UNKNOWN)
    if kind is EventKind.DROPPED and text.lower().startswith(FAILURES):
        return EventKind.FAILED
    return kind


def _bounce_class(fields: EventFields) -> BounceClass:
    """Return soft if `type` is `blocked`, else the class of SendGrid's classification; hard if it is unclassified."""
    if fields.text("type") == "blocked":
        return BounceClass.SOFT
    return CLASSES.get(fields.text("bounce_classification").lower(), BounceClass.HARD)
