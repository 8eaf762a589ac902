"""Brevo's transactional webhooks (once Sendinblue): one event, or a batch of them, in; a DeliveryEvent each out.

https://developers.brevo.com/docs/transactional-webhooks
https://developers.brevo.com/docs/batch-webhooks
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import UNCORRELATED, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, embedded_email_id, split_events
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId, Millis

HORIZON_S: Final = 24 * 60 * 60
"""Longer than it says that it repeats; nothing is signed, so nothing hangs on it."""

KINDS: Final = {
    # Told before Brevo knows whether it will send at all: `blocked` may follow.
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
"""Loaded by a mail provider's proxy, such as Apple's, which loads the pixel of every mail."""

_PERSONAL: Final = frozenset({"email", "sender_email", "subject", "ip", "mirror_link"})
_VERBATIM: Final = frozenset({"link", "message-id"})
_IDENTITY_FIELDS: Final = ("message-id", "event", "email", "ts_epoch", "ts_event", "ts", "link")
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECONDS_END: Final = 1e11


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise Forged unless the request brings the password or the token; Brevo signs nothing, so nothing gets stale.

    https://developers.brevo.com/docs/username-and-password-authentication
    """
    signatures.verify_password(incoming, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """The events: a bare object, or an array where the webhook is a batched one. Raises Unrecognised."""
    return split_events(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One event in our words, with its own words beside them and without any address."""
    fields = EventFields.read(event)
    name = _name(fields)
    kind, text = KINDS.get(name, EventKind.UNKNOWN), fields.text("reason").strip()
    told, code, enhanced = CLASSES.get(name), status_codes.reply_code(text), status_codes.enhanced_code(text)
    hide = redactor([fields.text("email")])
    return DeliveryEvent(
        email_id=_email_id(fields, context),
        event_id=ids.event_id("brevo", context.provider, *(fields.text(part) for part in _IDENTITY_FIELDS)),
        kind=kind,
        occurred_at=timestamps.event_time(_occurred_at, _time(fields), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine=name if name in MACHINES else "",
        bounce_class=told and classify.webhook_bounce_class(told, code, enhanced, text),
        bounce_type=name if kind in (EventKind.BOUNCED, EventKind.DROPPED, EventKind.FAILED) else "",
        code=code,
        enhanced=enhanced,
        text=redact_all(hide(text)),
        url=hide(fields.text("link")),
        user_agent=hide(fields.text("user_agent")),
        # Its SMTP server says "queued as <…>", and an ack keeps what is between the brackets.
        provider_message_id=fields.text("message-id").strip().strip("<>"),
        native=redacted_native(event, hide, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _name(fields: EventFields) -> str:
    """Brevo spells its events in two ways, `hard_bounce` in what it sends and `hardBounce` where one enables them."""
    name = _HUMP.sub("_", fields.text("event")).lower()
    if not name:
        raise Unrecognised("an object without `event`")
    return name


def _email_id(fields: EventFields, context: EventContext) -> EmailId:
    tags = (fields.text("tag"), *(tag.decode() for tag in fields.items("tags")))
    ours = embedded_email_id(fields.text("X-Mailin-custom"), *tags)
    return ours or context.token_readers.message_id(fields.text("message-id")) or UNCORRELATED


def _time(fields: EventFields) -> str:
    return fields.text("ts_epoch") or fields.text("ts_event") or fields.text("ts")


def _occurred_at(text: str) -> Millis:
    """`ts_epoch` is milliseconds in what Brevo sends and seconds in some of what it documents; `date` has no zone."""
    milliseconds = timestamps.from_milliseconds(text)
    return timestamps.from_seconds(text) if milliseconds < _SECONDS_END else milliseconds
