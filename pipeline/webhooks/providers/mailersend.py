"""Adapter of MailerSend's webhooks, versions 1 and 2.

https://developers.mailersend.com/api/v1/webhooks.html
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EmailEcho, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, embedded_echo, split_object
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

SIGNATURE_HEADER: Final = "Signature"
HORIZON_S: Final = 3 * 24 * 60 * 60
TEST_EVENT: Final = "webhook.test"
MAX_TEST_BYTES: Final = 1_000
TEST_SECRET: Final = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G"  # noqa: S105 - published, so that it proves nothing
"""MailerSend tests a URL with this secret before it saves a webhook, and does not save it without a 2xx."""

KINDS: Final = {
    "activity.sent": EventKind.SENT,
    "activity.delivered": EventKind.DELIVERED,
    "activity.deferred": EventKind.DEFERRED,
    "activity.soft_bounced": EventKind.BOUNCED,
    "activity.hard_bounced": EventKind.BOUNCED,
    "activity.suppressed": EventKind.DROPPED,
    "activity.spam_complaint": EventKind.COMPLAINED,
    "activity.unsubscribed": EventKind.UNSUBSCRIBED,
    "activity.opened": EventKind.OPENED,
    "activity.opened_unique": EventKind.OPENED,
    "activity.clicked": EventKind.CLICKED,
    "activity.clicked_unique": EventKind.CLICKED,
}
CLASSES: Final = {"activity.hard_bounced": BounceClass.HARD, "activity.soft_bounced": BounceClass.SOFT}

# `email` is not here: in version 1 it is an object with the ids. In version 2 it is the address, and gets redacted.
_PERSONAL: Final = frozenset(
    {"recipient", "from", "subject", "headers", "ip", "address", "answer"}
    | {"name", "reply_to_email", "reply_to_name", "personal_note"}
)
_VERBATIM: Final = frozenset({"url"})
_REASONS: Final = (
    ("morph", "readable_reason"),
    ("morph", "reason"),
    ("meta", "bounce_reason"),
    ("meta", "readable_reason"),
    ("meta", "reason"),
    ("meta", "unsubscribe_reason"),
)


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless the body was signed with one of ``keys``. MailerSend signs no time."""
    signatures.verify_signed_body(incoming, SIGNATURE_HEADER, keys)


def is_probe(incoming: WebhookRequest) -> bool:
    """Return whether this is MailerSend's test of the URL. Its secret is public, so anybody can send one."""
    if len(incoming.body) > MAX_TEST_BYTES:
        return False
    try:
        verify(incoming, [TEST_SECRET], 0, 0)
        return EventFields.read(incoming.body).text("type") == TEST_EVENT
    except (InvalidSignatureError, Unrecognised):
        return False


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the body as the only event. Raise Unrecognised."""
    return split_object(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    data, name = fields.object("data"), _name(fields)
    kind = KINDS.get(name, EventKind.UNKNOWN)
    text = next((reason for path in _REASONS if (reason := data.text(*path))), "")
    reported_class, code, enhanced = CLASSES.get(name), status_codes.reply_code(text), status_codes.enhanced_code(text)
    recipient = data.text("email", "recipient", "email") or data.text("email")
    redact = redactor([recipient])
    named = context.named_email(_echo(data))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(name, data, context, fields.text("created_at")),
        kind=kind,
        # In version 1 the outer time is that of the request, which changes with each repeat.
        occurred_at=timestamps.event_time(
            timestamps.from_iso, data.text("created_at") or fields.text("created_at"), kind, context.received_at
        ),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=reported_class and classify.webhook_bounce_class(reported_class, code, enhanced, text),
        bounce_type=name.removeprefix("activity.") if name in CLASSES else "",
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(data.text("morph", "url") or data.text("meta", "url")),
        user_agent=redact(data.text("meta", "user_agent")),
        provider_message_id=data.text("email", "message", "id") or data.text("message_id"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _name(fields: EventFields) -> str:
    """Return `type`, or `object`, which `email_single.verified` has instead. Raise Unrecognised."""
    name = fields.text("type") or fields.text("object")
    if not name:
        raise Unrecognised("an object without `type`")
    return name


def _echo(data: EventFields) -> EmailEcho:
    tags = data.items("email", "tags") or data.items("tags")
    return embedded_echo(*(tag.decode() for tag in tags))


def _event_id(name: str, data: EventFields, context: EventContext, created_at: str) -> str:
    """Return the activity's id; in surveys and other events, `id` is an object's that several events may be about."""
    activity_id, email = data.text("id"), data.text("email_id")
    if name in KINDS and activity_id and activity_id != email:
        return f"mailersend:{activity_id}"
    return ids.event_id("mailersend", context.provider, name, activity_id, email, created_at)
