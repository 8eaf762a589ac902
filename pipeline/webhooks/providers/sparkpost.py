"""Adapter of SparkPost's event webhooks, which authenticate with a password or a token.

https://support.sparkpost.com/docs/tech-resources/webhook-event-reference
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, split_array
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import Millis

HORIZON_S: Final = 8 * 60 * 60  # https://support.sparkpost.com/docs/tech-resources/webhook-data-streams

KINDS: Final = {
    "injection": EventKind.QUEUED,
    "delivery": EventKind.DELIVERED,
    "delay": EventKind.DEFERRED,
    "bounce": EventKind.BOUNCED,
    "out_of_band": EventKind.BOUNCED,
    "policy_rejection": EventKind.DROPPED,
    "generation_rejection": EventKind.DROPPED,
    "generation_failure": EventKind.FAILED,
    "spam_complaint": EventKind.COMPLAINED,
    "open": EventKind.OPENED,
    "initial_open": EventKind.OPENED,
    "amp_open": EventKind.OPENED,
    "amp_initial_open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "amp_click": EventKind.CLICKED,
    "list_unsubscribe": EventKind.UNSUBSCRIBED,
    "link_unsubscribe": EventKind.UNSUBSCRIBED,
}

# Kind and class by SparkPost's bounce class, with its name as a comment; not all returned mail is a bounce.
# https://support.sparkpost.com/docs/deliverability/bounce-classification-codes
CLASSES: Final = {
    "1": (EventKind.BOUNCED, BounceClass.SOFT),  # Undetermined
    "10": (EventKind.BOUNCED, BounceClass.HARD),  # Invalid Recipient
    "20": (EventKind.BOUNCED, BounceClass.SOFT),  # Soft Bounce
    "21": (EventKind.BOUNCED, BounceClass.SOFT),  # DNS Failure
    "22": (EventKind.BOUNCED, BounceClass.SOFT),  # Mailbox Full
    "23": (EventKind.BOUNCED, BounceClass.SOFT),  # Too Large
    "24": (EventKind.BOUNCED, BounceClass.SOFT),  # Timeout
    "25": (EventKind.DROPPED, None),  # Admin Failure: "failed by SparkPost's configured policies"
    "26": (EventKind.DROPPED, None),  # Smart Send Suppression: "suppressed by Smart Send policy"
    "30": (EventKind.BOUNCED, BounceClass.HARD),  # Generic Bounce: No RCPT
    "40": (EventKind.BOUNCED, BounceClass.SOFT),  # Generic Bounce
    "50": (EventKind.BOUNCED, BounceClass.SOFT),  # Mail Block
    "51": (EventKind.BOUNCED, BounceClass.SOFT),  # Spam Block
    "52": (EventKind.BOUNCED, BounceClass.SOFT),  # Spam Content
    "53": (EventKind.BOUNCED, BounceClass.SOFT),  # Prohibited Attachment
    "54": (EventKind.BOUNCED, BounceClass.SOFT),  # Relaying Denied
    "60": (EventKind.REPLIED, None),  # Auto-Reply
    "70": (EventKind.BOUNCED, BounceClass.SOFT),  # Transient Failure
    "80": (EventKind.UNKNOWN, None),  # Subscribe
    "90": (EventKind.UNSUBSCRIBED, None),  # Unsubscribe
    "100": (EventKind.REPLIED, None),  # Challenge-Response
}

_PERSONAL: Final = frozenset({"rcpt_to", "raw_rcpt_to", "rcpt_hash", "rcpt_subs", "subject", "content"}) | {
    *("friendly_from", "msg_from", "mailfrom", "ip_address", "geo_ip", "remote_addr", "sms_dst", "sms_src", "sms_text")
}
_VERBATIM: Final = frozenset({"target_link_url"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise AuthenticationFailed unless the request has one of ``keys``: ``user:password``, or an OAuth token.

    SparkPost signs nothing.
    """
    signatures.verify_password(incoming, keys)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events of a batch, without ``{"msys": {}}``, which only tests the URL. Raise Unrecognised."""
    return [event for event in split_array(body) if not _is_ping(event)]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = _inner_fields(event)
    name = fields.text("type")
    if not name:
        raise Unrecognised("an event without `type`")
    kind, bounce_class = _kind(name, fields.text("bounce_class"))
    text = fields.text("raw_reason") or fields.text("reason")
    code, enhanced = status_codes.reply_code(fields.text("error_code"), text), status_codes.enhanced_code(text)
    redact = redactor([fields.text("rcpt_to"), fields.text("raw_rcpt_to")])
    named = context.named_email(fields.echo("rcpt_meta"))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(_occurred_at, fields.text("timestamp"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine="prefetched" if fields.true("user_agent_parsed", "is_prefetched") else "",
        bounce_class=bounce_class and classify.webhook_bounce_class(bounce_class, code, enhanced, text),
        bounce_type=fields.text("bounce_class") or fields.text("fbtype"),
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(fields.text("target_link_url")),
        user_agent=redact(fields.text("user_agent")),
        provider_message_id=fields.text("transmission_id") or fields.text("message_id"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _is_ping(event: bytes) -> bool:
    try:
        fields = EventFields.read(event)
    except Unrecognised:
        return False
    return bytes(fields.raw.get("msys", b"")).startswith(b"{") and not fields.object("msys").raw


def _inner_fields(event: bytes) -> EventFields:
    """Return the fields inside ``{"msys": {"message_event": {…}}}``, whichever class of event it is."""
    msys = EventFields.read(event).object("msys")
    if len(msys.raw) != 1:
        raise Unrecognised("not one event in `msys`")
    return msys.object(*msys.raw)


def _kind(name: str, bounce_class: str) -> tuple[EventKind, BounceClass | None]:
    kind = KINDS.get(name, EventKind.UNKNOWN)
    return CLASSES.get(bounce_class, (kind, BounceClass.SOFT)) if kind is EventKind.BOUNCED else (kind, None)


def _occurred_at(text: str) -> Millis:
    """Parse Unix seconds, or ISO 8601, which some events have instead."""
    return timestamps.from_iso(text) if "T" in text else timestamps.from_seconds(text)


def _event_id(fields: EventFields, context: EventContext) -> str:
    if native_id := fields.text("event_id"):
        return f"sparkpost:{native_id}"
    parts = ("transmission_id", "type", "rcpt_to", "timestamp", "target_link_url")
    return ids.event_id("sparkpost", context.provider, *map(fields.text, parts))
