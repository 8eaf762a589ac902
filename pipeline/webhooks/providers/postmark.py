"""Adapter of Postmark's webhooks, which authenticate with a password.

https://postmarkapp.com/developer/webhooks/webhooks-overview
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, split_object
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

HORIZON_S: Final = 10 * 60 * 60 + 30 * 60  # "10 retries are attempted over roughly 10.5 hours"

# Record type -> our kind, and the field with its time.
RECORDS: Final = {
    "Delivery": (EventKind.DELIVERED, "DeliveredAt"),
    "Open": (EventKind.OPENED, "ReceivedAt"),
    "Click": (EventKind.CLICKED, "ReceivedAt"),
    "Bounce": (EventKind.BOUNCED, "BouncedAt"),
    "SpamComplaint": (EventKind.COMPLAINED, "BouncedAt"),
    "SubscriptionChange": (EventKind.UNSUBSCRIBED, "ChangedAt"),
}
_UNKNOWN_RECORD: Final = (EventKind.UNKNOWN, "ReceivedAt")

# Kind and class by the type of a bounce or the reason of a suppression. Postmark calls all returned mail a bounce.
# https://postmarkapp.com/developer/api/bounce-api#bounce-types
TYPES: Final = {
    "HardBounce": (EventKind.BOUNCED, BounceClass.HARD),
    "SoftBounce": (EventKind.BOUNCED, BounceClass.SOFT),
    # The recipient's provider refused the content or the sender.
    "Blocked": (EventKind.BOUNCED, BounceClass.SOFT),
    "SpamNotification": (EventKind.BOUNCED, BounceClass.SOFT),
    "VirusNotification": (EventKind.BOUNCED, BounceClass.SOFT),
    # Postmark tries again.
    "Transient": (EventKind.DEFERRED, None),
    "DnsError": (EventKind.DEFERRED, None),
    # An automatic reply: the mail was delivered.
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
    # The recipient wants no more mail.
    "SpamComplaint": (EventKind.COMPLAINED, None),
    "Unsubscribe": (EventKind.UNSUBSCRIBED, None),
    "ManualSuppression": (EventKind.UNSUBSCRIBED, None),
    # These say nothing about an email.
    "Subscribe": (EventKind.UNKNOWN, None),
    "OpenRelayTest": (EventKind.UNKNOWN, None),
    "InboundError": (EventKind.UNKNOWN, None),
    "Unknown": (EventKind.UNKNOWN, None),
}

# `Content` is the whole bounce, including our mail and its headers.
_PERSONAL: Final = frozenset({"Email", "Recipient", "From", "Subject", "Content", "Geo"})
_VERBATIM: Final = frozenset({"OriginalLink"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise AuthenticationFailed unless the request has one of ``keys``, ``user:password``. Postmark signs nothing."""
    signatures.verify_basic(incoming, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the body as the only event. Raise Unrecognised."""
    return split_object(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name = fields.text("RecordType")
    if not name:
        raise Unrecognised("an object without `RecordType`")
    kind, bounce_class = _kind(name, fields)
    text = fields.text("Details") or fields.text("Description")
    code, enhanced = status_codes.reply_code(text), status_codes.enhanced_code(text)
    redact = redactor([fields.text("Email"), fields.text("Recipient")])
    named = context.named_email(fields.echo("Metadata"))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(name, event, fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_iso, _time(name, fields), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        # `Details` only: `Description` is Postmark's own text about the type and lists all that it may mean.
        bounce_class=bounce_class
        and classify.webhook_bounce_class(bounce_class, code, enhanced, fields.text("Details")),
        bounce_type=_type(fields),
        bounce_subtype=fields.text("TypeCode"),
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(fields.text("OriginalLink")),
        user_agent=redact(fields.text("UserAgent")),
        provider_message_id=fields.text("MessageID"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
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
    """Return kind and class of an address that was suppressed; UNKNOWN if it was released.

    It is an unsubscription only if the recipient asked for it.
    """
    if not fields.true("SuppressSending"):
        return EventKind.UNKNOWN, None
    kind, bounce_class = TYPES.get(_type(fields), (EventKind.UNKNOWN, None))
    if kind is EventKind.UNSUBSCRIBED and fields.text("Origin") != "Recipient":
        return EventKind.UNKNOWN, None
    return kind, bounce_class


def _time(name: str, fields: EventFields) -> str:
    return fields.text(RECORDS.get(name, _UNKNOWN_RECORD)[1])


def _event_id(name: str, event: bytes, fields: EventFields, context: EventContext) -> str:
    """Return the native id, which only bounces and complaints have, else a hash of identifying fields."""
    if native_id := fields.text("ID"):
        return f"postmark:{native_id}"
    if name not in RECORDS and not _time(name, fields):
        # It is unknown which fields distinguish events of a new type, but a repeat has the same bytes.
        return ids.event_id("postmark", context.provider, event.decode("utf-8", "replace"))
    recipient = fields.text("Recipient") or fields.text("Email")
    parts = (fields.text("MessageID"), name, recipient, _time(name, fields), fields.text("OriginalLink"))
    return ids.event_id("postmark", context.provider, *parts)
