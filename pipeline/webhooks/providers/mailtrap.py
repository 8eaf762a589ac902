"""Adapter of Mailtrap's webhooks, in JSON or JSON Lines.

https://docs.mailtrap.io/email-api-smtp/advanced/webhooks
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

SIGNATURE_HEADER: Final = "Mailtrap-Signature"
HORIZON_S: Final = 24 * 60 * 60
"""Mailtrap repeats 40 times every 5 minutes for sent mail, and up to 24 hours for received mail."""

KINDS: Final = {
    "delivery": EventKind.DELIVERED,
    "soft bounce": EventKind.DEFERRED,  # "The delivery will be attempted 10 more times."
    "suspension": EventKind.DEFERRED,  # until a domain is verified or a limit is over; then a delivery or a reject
    "bounce": EventKind.BOUNCED,
    "reject": EventKind.DROPPED,
    "spam": EventKind.COMPLAINED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
}

# The class of a bounce by its category: https://docs.mailtrap.io/email-api-smtp/bounce-categorization
# Without a known category, the server's codes decide.
CLASSES: Final = {
    "badrecipient": BounceClass.HARD,
    "badsender": BounceClass.SOFT,
    "block": BounceClass.SOFT,
    "content": BounceClass.SOFT,
    "dnsfail": BounceClass.SOFT,
    "generalfail": BounceClass.SOFT,
    "greylisting": BounceClass.SOFT,
    "other": BounceClass.SOFT,
    "overquota": BounceClass.SOFT,
    "relayfail": BounceClass.SOFT,
    "serverfail": BounceClass.SOFT,
    "serverpolicy": BounceClass.SOFT,
    "spam": BounceClass.SOFT,
    "spam_gmail": BounceClass.SOFT,
    "timeout": BounceClass.SOFT,
    "transientfail": BounceClass.SOFT,
    "verifyfail": BounceClass.SOFT,
}

INBOUND: Final = "inbound."
"""The prefix of events of received mail, whose ids do not belong to messages that we sent."""

_PERSONAL: Final = frozenset({"email", "ip", "actor", "resource", "changes", "from", "sender_name", "subject"})
_VERBATIM: Final = frozenset({"url"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless the body was signed with one of ``keys``. Mailtrap signs no time."""
    signatures.verify_signed_body(incoming, SIGNATURE_HEADER, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events of `{"events": […]}` or of JSON Lines. Raise Unrecognised.

    Lines are not parsed here, so that a broken one does not affect the others.
    """
    try:
        fields = EventFields.read(body)
    except Unrecognised:
        lines = [line for line in body.splitlines() if line.strip()]
        if len(lines) < 2 or not lines[0].lstrip().startswith(b"{"):
            raise
        return lines
    return fields.items("events") if "events" in fields.raw else [body]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name, text = fields.text("event"), fields.text("response") or fields.text("reason")
    if not name:
        raise Unrecognised("an object without `event`")
    kind = KINDS.get(name, EventKind.UNKNOWN)
    redact = redactor([fields.text("email")])
    named = context.named_email(fields.echo("custom_variables"))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("timestamp"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=_bounce_class(fields) if kind is EventKind.BOUNCED else None,
        bounce_type=name if "bounce" in name else "",
        bounce_subtype=fields.text("bounce_category"),
        code=status_codes.reply_code(fields.text("response_code"), text),
        enhanced=status_codes.enhanced_code(text),
        text=redact_all(redact(text)),
        url=redact(fields.text("url")),
        user_agent=redact(fields.text("user_agent")),
        provider_message_id="" if name.startswith(INBOUND) else fields.text("message_id"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _bounce_class(fields: EventFields) -> BounceClass:
    reply = " ".join((fields.text("response_code"), fields.text("response")))
    reported_class, verdict = CLASSES.get(fields.text("bounce_category").lower()), classify.classify_reply("", reply)
    if reported_class is None:
        return verdict.bounce_class
    return classify.webhook_bounce_class(reported_class, verdict.code, verdict.enhanced, reply)


def _event_id(fields: EventFields, context: EventContext) -> str:
    native_id = fields.text("event_id")
    if native_id:
        return f"mailtrap:{native_id}"
    parts = ("message_id", "event", "email", "timestamp", "url", "description")
    return ids.event_id("mailtrap", context.provider, *(fields.text(part) for part in parts))
