"""Adapter of Brevo's (formerly Sendinblue's) transactional webhooks, single or batched.

https://developers.brevo.com/docs/transactional-webhooks
https://developers.brevo.com/docs/batch-webhooks
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, NamedEmail, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, embedded_echo, split_events
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import Millis

HORIZON_S: Final = 24 * 60 * 60
"""Longer than Brevo documents. It has no effect: Brevo signs no time."""

KINDS: Final = {
    # Reported before Brevo decides whether to send at all: `blocked` may follow.
    "request": EventKind.QUEUED,
    "sent": EventKind.QUEUED,
    "delivered": EventKind.DELIVERED,
    "deferred": EventKind.DEFERRED,
    "hard_bounce": EventKind.BOUNCED,
    "soft_bounce": EventKind.BOUNCED,
    "invalid_email": EventKind.BOUNCED,
    "invalid": EventKind.BOUNCED,
    "blocked": EventKind.DROPPED,
    "error": EventKind.FAILED,
    "spam": EventKind.COMPLAINED,
    "complaint": EventKind.COMPLAINED,
    "opened": EventKind.OPENED,
    "unique_opened": EventKind.OPENED,
    "proxy_open": EventKind.OPENED,
    "unique_proxy_open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "unsubscribed": EventKind.UNSUBSCRIBED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
}
CLASSES: Final = {
    "hard_bounce": BounceClass.HARD,
    "invalid_email": BounceClass.HARD,
    "invalid": BounceClass.HARD,
    "soft_bounce": BounceClass.SOFT,
}
MACHINES: Final = ("proxy_open", "unique_proxy_open")
"""Opens by a mail provider's proxy, such as Apple's, which loads the pixel of every mail."""

_PERSONAL: Final = frozenset({"email", "sender_email", "subject", "ip", "mirror_link"})
_VERBATIM: Final = frozenset({"link", "message-id"})
_IDENTITY_FIELDS: Final = ("message-id", "event", "email", "ts_epoch", "ts_event", "ts", "link")
_CAMEL_CASE_BOUNDARY: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECONDS_END: Final = 1e11
"""A smaller timestamp is in seconds, a greater one in milliseconds."""


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise AuthenticationFailed unless the request has the password or the token. Brevo signs no time.

    https://developers.brevo.com/docs/username-and-password-authentication
    """
    signatures.verify_password(incoming, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events: a single object, or the items of an array if batching is on. Raise Unrecognised."""
    return split_events(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name = _name(fields)
    kind, text = KINDS.get(name, EventKind.UNKNOWN), fields.text("reason").strip()
    reported_class, code, enhanced = CLASSES.get(name), status_codes.reply_code(text), status_codes.enhanced_code(text)
    redact = redactor([fields.text("email")])
    named = _named_email(fields, context)
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=ids.event_id("brevo", context.provider, *(fields.text(part) for part in _IDENTITY_FIELDS)),
        kind=kind,
        occurred_at=timestamps.event_time(_occurred_at, _time(fields), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine=name if name in MACHINES else "",
        bounce_class=reported_class and classify.webhook_bounce_class(reported_class, code, enhanced, text),
        bounce_type=name if kind in (EventKind.BOUNCED, EventKind.DROPPED, EventKind.FAILED) else "",
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(fields.text("link")),
        user_agent=redact(fields.text("user_agent")),
        # Brevo's SMTP server replies "queued as <…>", and an ack stores the id without the brackets.
        provider_message_id=fields.text("message-id").strip().strip("<>"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _name(fields: EventFields) -> str:
    """Return the event's type in snake case: Brevo writes `hard_bounce` in events and `hardBounce` in its settings."""
    name = _CAMEL_CASE_BOUNDARY.sub("_", fields.text("event")).lower()
    if not name:
        raise Unrecognised("an object without `event`")
    return name


def _named_email(fields: EventFields, context: EventContext) -> NamedEmail:
    tags = (fields.text("tag"), *(tag.decode() for tag in fields.items("tags")))
    return context.named_email(embedded_echo(fields.text("X-Mailin-custom"), *tags), fields.text("message-id"))


def _time(fields: EventFields) -> str:
    return fields.text("ts_epoch") or fields.text("ts_event") or fields.text("ts")


def _occurred_at(text: str) -> Millis:
    """Parse `ts_epoch`: milliseconds in Brevo's events, seconds in parts of its documentation; `date` has no zone."""
    milliseconds = timestamps.from_milliseconds(text)
    return timestamps.from_seconds(text) if milliseconds < _SECONDS_END else milliseconds
