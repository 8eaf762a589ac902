"""Adapter of Mailjet's Event API.

https://dev.mailjet.com/email/guides/webhooks/
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, embedded_echo, split_events
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

HORIZON_S: Final = 24 * 60 * 60
"""Mailjet repeats every 30 seconds for 24 hours."""

KINDS: Final = {
    "sent": EventKind.DELIVERED,  # "the destination SMTP server has accepted the message"
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "bounce": EventKind.BOUNCED,
    "blocked": EventKind.DROPPED,
    "spam": EventKind.COMPLAINED,
    "unsub": EventKind.UNSUBSCRIBED,
}

# Errors that turn a bounce or a block into another kind: the message or Mailjet itself caused them.
KINDS_OF_ERRORS: Final = {
    "bad or empty template": EventKind.FAILED,
    "error in template language": EventKind.FAILED,
    "system issue": EventKind.FAILED,
    "protocol issue": EventKind.FAILED,
    "connection issue": EventKind.FAILED,
    "greylisted": EventKind.DEFERRED,  # "Delivery will be re-attempted."
}

# Errors that say nothing against the address, whatever `hard_bounce` says; for all others that flag decides.
CLASSES: Final = {
    "quota exceeded": BounceClass.SOFT,  # "a non-permanent error"
    "relay/access denied": BounceClass.SOFT,
    "sender blocked": BounceClass.SOFT,
    "content blocked": BounceClass.SOFT,
    "policy issue": BounceClass.SOFT,
    "greylisted": BounceClass.SOFT,
}

_PERSONAL: Final = frozenset({"email", "ip"})
_VERBATIM: Final = frozenset({"url"})
_IDENTITY_FIELDS: Final = ("MessageID", "Message_GUID", "event", "email", "time", "url")


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise AuthenticationFailed unless the request has the password. Mailjet signs nothing."""
    signatures.verify_basic(incoming, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events: the items of an array, or a single object if grouping is off. Raise Unrecognised."""
    return split_events(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name = fields.text("event")
    if not name:
        raise Unrecognised("an object without `event`")
    # Some bounces have the error in `error_related_to`, and nothing in `error`.
    related, error = fields.text("error_related_to"), fields.text("error")
    kind = _kind(fields, (error or related).lower())
    text = fields.text("comment") or fields.text("smtp_reply")
    code, enhanced = status_codes.reply_code(text), status_codes.enhanced_code(text)
    redact = redactor([fields.text("email")])
    named = context.named_email(embedded_echo(fields.text("Payload"), fields.text("CustomID")))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=ids.event_id("mailjet", context.provider, *(fields.text(part) for part in _IDENTITY_FIELDS)),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("time"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=classify.webhook_bounce_class(
            _bounce_class(fields, (error or related).lower()), code, enhanced, text
        )
        if kind is EventKind.BOUNCED
        else None,
        bounce_type=related,
        bounce_subtype=error,
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(fields.text("url")),
        user_agent=redact(fields.text("agent")),
        provider_message_id=_message_id(fields),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _kind(fields: EventFields, error: str) -> EventKind:
    kind = KINDS.get(fields.text("event"), EventKind.UNKNOWN)
    if kind not in (EventKind.BOUNCED, EventKind.DROPPED):
        return kind
    kind_of_error = KINDS_OF_ERRORS.get(error, kind)
    return kind if kind_of_error is EventKind.DEFERRED and fields.true("hard_bounce") else kind_of_error


def _bounce_class(fields: EventFields, error: str) -> BounceClass:
    return CLASSES.get(error, BounceClass.HARD if fields.true("hard_bounce") else BounceClass.SOFT)


def _message_id(fields: EventFields) -> str:
    """Return the GUID, which is also in the reply of Mailjet's SMTP server, else the number that its API returns."""
    return fields.text("Message_GUID") or fields.text("MessageID")
