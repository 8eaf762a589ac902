"""Postmark's webhooks: a request with a password in, one DeliveryEvent out.

https://postmarkapp.com/developer/webhooks/webhooks-overview
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EMAIL_ID_KEY, UNCORRELATED, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, split_object
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

HORIZON_S: Final = 10 * 60 * 60 + 30 * 60  # "10 retries are attempted over roughly 10.5 hours"

# What is told -> our word, and the field with its time.
RECORDS: Final = {
    "Delivery": (EventKind.DELIVERED, "DeliveredAt"),
    "Open": (EventKind.OPENED, "ReceivedAt"),
    "Click": (EventKind.CLICKED, "ReceivedAt"),
    "Bounce": (EventKind.BOUNCED, "BouncedAt"),
    "SpamComplaint": (EventKind.COMPLAINED, "BouncedAt"),
    "SubscriptionChange": (EventKind.UNSUBSCRIBED, "ChangedAt"),
}
_UNKNOWN_RECORD: Final = (EventKind.UNKNOWN, "ReceivedAt")

# What a bounce, or the reason of a suppression, means. All that comes back is a bounce to Postmark.
# https://postmarkapp.com/developer/api/bounce-api#bounce-types
TYPES: Final = {
    "HardBounce": (EventKind.BOUNCED, BounceClass.HARD),
    "SoftBounce": (EventKind.BOUNCED, BounceClass.SOFT),
    # The recipient's provider refused it, for what is in it or for who sends it.
    "Blocked": (EventKind.BOUNCED, BounceClass.SOFT),
    "SpamNotification": (EventKind.BOUNCED, BounceClass.SOFT),
    "VirusNotification": (EventKind.BOUNCED, BounceClass.SOFT),
    # It is tried again.
    "Transient": (EventKind.DEFERRED, None),
    "DnsError": (EventKind.DEFERRED, None),
    # Somebody's program answered; the mail got there.
    "AutoResponder": (EventKind.REPLIED, None),
    "AddressChange": (EventKind.REPLIED, None),
    "ChallengeVerification": (EventKind.REPLIED, None),
    # Postmark did not send it.
    "BadEmailAddress": (EventKind.DROPPED, None),
    "ManuallyDeactivated": (EventKind.DROPPED, None),
    "Unconfirmed": (EventKind.DROPPED, None),
    "DMARCPolicy": (EventKind.DROPPED, None),
    "SMTPApiError": (EventKind.FAILED, None),
    "TemplateRenderingFailed": (EventKind.FAILED, None),
    # The recipient has had enough.
    "SpamComplaint": (EventKind.COMPLAINED, None),
    "Unsubscribe": (EventKind.UNSUBSCRIBED, None),
    "ManualSuppression": (EventKind.UNSUBSCRIBED, None),
    # Nothing became of the email.
    "Subscribe": (EventKind.UNKNOWN, None),
    "OpenRelayTest": (EventKind.UNKNOWN, None),
    "InboundError": (EventKind.UNKNOWN, None),
    "Unknown": (EventKind.UNKNOWN, None),
}

# `Content` is the whole bounce, our mail and its headers included.
_PERSONAL: Final = frozenset({"Email", "Recipient", "From", "Subject", "Content", "Geo"})
_VERBATIM: Final = frozenset({"OriginalLink"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise Forged unless the request brings one of ``keys``, each ``user:password``. Postmark signs nothing."""
    signatures.verify_basic(incoming, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """One request, one event. Raises Unrecognised."""
    return split_object(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One event in our words, with its own words beside them and without any address."""
    fields = EventFields.read(event)
    name = fields.text("RecordType")
    if not name:
        raise Unrecognised("an object without `RecordType`")
    kind, bounce_class = _kind(name, fields)
    text = fields.text("Details") or fields.text("Description")
    code, enhanced = status_codes.reply_code(text), status_codes.enhanced_code(text)
    hide = redactor([fields.text("Email"), fields.text("Recipient")])
    return DeliveryEvent(
        email_id=fields.email_id("Metadata", EMAIL_ID_KEY) or UNCORRELATED,
        event_id=_event_id(name, event, fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_iso, _time(name, fields), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        # `Description` is Postmark's own about the type; it tells of everything that the type may mean.
        bounce_class=bounce_class
        and classify.webhook_bounce_class(bounce_class, code, enhanced, fields.text("Details")),
        bounce_type=_type(fields),
        bounce_subtype=fields.text("TypeCode"),
        code=code,
        enhanced=enhanced,
        text=redact_all(hide(text)),
        url=hide(fields.text("OriginalLink")),
        user_agent=hide(fields.text("UserAgent")),
        provider_message_id=fields.text("MessageID"),
        native=redacted_native(event, hide, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _type(fields: EventFields) -> str:
    return fields.text("Type") or fields.text("SuppressionReason")


def _kind(name: str, fields: EventFields) -> tuple[EventKind, BounceClass | None]:
    kind = RECORDS.get(name, _UNKNOWN_RECORD)[0]
    if kind is EventKind.UNSUBSCRIBED:
        return _suppression(fields)
    if kind is EventKind.BOUNCED:
        return TYPES.get(_type(fields), (EventKind.UNKNOWN, None))
    return kind, None


def _suppression(fields: EventFields) -> tuple[EventKind, BounceClass | None]:
    """An address came onto a stream's list, or left it. Who put it there decides whether somebody unsubscribed."""
    if not fields.true("SuppressSending"):
        return EventKind.UNKNOWN, None
    kind, bounce_class = TYPES.get(_type(fields), (EventKind.UNKNOWN, None))
    if kind is EventKind.UNSUBSCRIBED and fields.text("Origin") != "Recipient":
        return EventKind.UNKNOWN, None
    return kind, bounce_class


def _time(name: str, fields: EventFields) -> str:
    return fields.text(RECORDS.get(name, _UNKNOWN_RECORD)[1])


def _event_id(name: str, event: bytes, fields: EventFields, context: EventContext) -> str:
    """Only bounces and complaints have an id of their own."""
    if given := fields.text("ID"):
        return f"postmark:{given}"
    if name not in RECORDS and not _time(name, fields):
        # What tells two events of a new type apart is not known; a repeat is the same, byte for byte.
        return ids.event_id("postmark", context.provider, event.decode("utf-8", "replace"))
    who = fields.text("Recipient") or fields.text("Email")
    parts = (fields.text("MessageID"), name, who, _time(name, fields), fields.text("OriginalLink"))
    return ids.event_id("postmark", context.provider, *parts)
