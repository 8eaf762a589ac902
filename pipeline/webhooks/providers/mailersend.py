"""MailerSend's webhooks, of either version: one signed event in, one DeliveryEvent out.

https://developers.mailersend.com/api/v1/webhooks.html
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import UNCORRELATED, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, embedded_email_id, split_object
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId

SIGNATURE_HEADER: Final = "Signature"
HORIZON_S: Final = 3 * 24 * 60 * 60
TEST_EVENT: Final = "webhook.test"
MAX_TEST_BYTES: Final = 1_000
TEST_SECRET: Final = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G"  # noqa: S105 - published, so that it proves nothing
"""MailerSend tries an address out with this before it saves a webhook; without a 2xx it saves none."""

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

# `email` is the address in version 2 and an object with the ids in version 1: there it is hidden, not dropped.
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
    """Raise Forged unless the body was signed with one of ``keys``; no time is signed, so nothing gets stale."""
    signatures.verify_signed_body(incoming, SIGNATURE_HEADER, keys)


def is_probe(incoming: WebhookRequest) -> bool:
    """Whether MailerSend only asks if anybody is there; anybody can ask that, its secret is a public one."""
    if len(incoming.body) > MAX_TEST_BYTES:
        return False
    try:
        verify(incoming, [TEST_SECRET], 0, 0)
        return EventFields.read(incoming.body).text("type") == TEST_EVENT
    except (InvalidSignatureError, Unrecognised):
        return False


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """One request, one event. Raises Unrecognised."""
    return split_object(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One event in our words, with its own words beside them and without any address."""
    fields = EventFields.read(event)
    data, name = fields.object("data"), _name(fields)
    kind = KINDS.get(name, EventKind.UNKNOWN)
    text = next((found for path in _REASONS if (found := data.text(*path))), "")
    told, code, enhanced = CLASSES.get(name), status_codes.reply_code(text), status_codes.enhanced_code(text)
    recipient = data.text("email", "recipient", "email") or data.text("email")
    hide = redactor([recipient])
    return DeliveryEvent(
        email_id=_email_id(data),
        event_id=_event_id(name, data, context, fields.text("created_at")),
        kind=kind,
        # In version 1 the outer time is the webhook's, which is another one at each repeat.
        occurred_at=timestamps.event_time(
            timestamps.from_iso, data.text("created_at") or fields.text("created_at"), kind, context.received_at
        ),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=told and classify.webhook_bounce_class(told, code, enhanced, text),
        bounce_type=name.removeprefix("activity.") if name in CLASSES else "",
        code=code,
        enhanced=enhanced,
        text=redact_all(hide(text)),
        url=hide(data.text("morph", "url") or data.text("meta", "url")),
        user_agent=hide(data.text("meta", "user_agent")),
        provider_message_id=data.text("email", "message", "id") or data.text("message_id"),
        native=redacted_native(event, hide, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _name(fields: EventFields) -> str:
    """`type`; one documented event, `email_single.verified`, says it in `object`."""
    name = fields.text("type") or fields.text("object")
    if not name:
        raise Unrecognised("an object without `type`")
    return name


def _email_id(data: EventFields) -> EmailId:
    tags = data.items("email", "tags") or data.items("tags")
    return embedded_email_id(*(tag.decode() for tag in tags)) or UNCORRELATED


def _event_id(name: str, data: EventFields, context: EventContext, created_at: str) -> str:
    """An activity's id; elsewhere, and in surveys, `id` names a thing that more than one event can be about."""
    given, email = data.text("id"), data.text("email_id")
    if name in KINDS and given and given != email:
        return f"mailersend:{given}"
    return ids.event_id("mailersend", context.provider, name, given, email, created_at)
