"""Adapter of Resend's webhooks, which Svix signs and delivers.

https://resend.com/docs/webhooks/event-types
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY, NO_ECHO, EventContext, NamedEmail, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, echo_of, split_object
from pipeline.webhooks.keys import readable_keys, svix_secret
from pipeline.webhooks.redaction import ADDRESS_PATTERN, redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

HORIZON_S: Final = 28 * 60 * 60
"""The eighth and last attempt comes 27.6 hours after the first; each attempt is signed with its own time."""

KINDS: Final = {
    "email.scheduled": EventKind.QUEUED,
    "email.sent": EventKind.SENT,
    "email.delivered": EventKind.DELIVERED,
    "email.delivery_delayed": EventKind.DEFERRED,
    "email.bounced": EventKind.BOUNCED,
    "email.complained": EventKind.COMPLAINED,
    "email.suppressed": EventKind.DROPPED,
    "email.failed": EventKind.FAILED,
    "email.opened": EventKind.OPENED,
    "email.clicked": EventKind.CLICKED,
}

# https://resend.com/docs/dashboard/emails/email-bounces; the page about webhooks has Temporary instead of Transient.
CLASSES: Final = {
    "Permanent": BounceClass.HARD,
    "Transient": BounceClass.SOFT,
    "Temporary": BounceClass.SOFT,
    "Undetermined": BounceClass.SOFT,
}
SUPPRESSED: Final = ("Suppressed", "OnAccountSuppressionList")
"""Subtypes of bounces that Resend did not try to deliver."""

_PERSONAL: Final = frozenset(
    {"from", "to", "cc", "bcc", "reply_to", "received_for", "email", "first_name", "last_name"}
    | {"subject", "headers", "attachments", "ipAddress"}
)
_VERBATIM: Final = frozenset({"link", "message_id"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless it was signed with one of ``keys`` (`whsec_…`), at most ``max_age_s`` ago.

    HMAC-SHA256 of id, time and body, separated by dots; during a rotation the header has a signature for each
    secret. https://docs.svix.com/receiving/verifying-payloads/how-manual
    """
    message_id, timestamp = _header(incoming, "id"), _header(incoming, "timestamp")
    signed = f"{message_id}.{timestamp}.".encode("latin-1", "replace") + incoming.body
    expected = signatures.hmac_sha256(readable_keys(svix_secret, keys), signed)
    if not any(signatures.equal_to_any(each, expected) for each in _signatures(_header(incoming, "signature"))):
        raise InvalidSignatureError("the webhook's signature is not its provider's")
    signatures.verify_fresh(timestamp, now_ms, max_age_s)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the body as the only event. Raise Unrecognised."""
    return split_object(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name, data = fields.text("type"), fields.object("data")
    if not name:
        raise Unrecognised("an object without `type`")
    bounce_type = data.text("bounce", "type") or data.text("suppressed", "type")
    subtype = data.text("bounce", "subType")
    kind = KINDS.get(name, EventKind.UNKNOWN)
    kind = EventKind.DROPPED if subtype in SUPPRESSED and kind is EventKind.BOUNCED else kind
    texts = _texts(data)
    code, enhanced = status_codes.reply_code(*texts), status_codes.enhanced_code(*texts)
    reported_class = CLASSES.get(bounce_type, BounceClass.SOFT)
    redact = redactor(_recipients(data))
    named = _named_email(data, context)
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_iso, fields.text("created_at"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=classify.webhook_bounce_class(reported_class, code, enhanced, " ".join(_server_replies(data)))
        if kind is EventKind.BOUNCED
        else None,
        bounce_type=bounce_type,
        bounce_subtype=subtype,
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(texts[0] if texts else "")),
        url=redact(data.text("click", "link")),
        user_agent=redact(data.text("click", "userAgent") or data.text("open", "userAgent")),
        # A suppression names the email that caused it as `source_id`; a received mail is not one that we sent.
        provider_message_id="" if name == "email.received" else data.text("email_id") or data.text("source_id"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _header(incoming: WebhookRequest, name: str) -> str:
    """Return a signature header, by its name in https://www.standardwebhooks.com or by Svix's older name."""
    return incoming.headers.get(f"webhook-{name}", "") or signatures.required_header(incoming, f"svix-{name}")


def _signatures(header: str) -> list[bytes]:
    """Return the signatures of version 1; others, such as Svix's asymmetric ones, cannot be verified with our keys."""
    return [signatures.from_base64(item[3:]) for item in header.split() if item.startswith("v1,")]


def _named_email(data: EventFields, context: EventContext) -> NamedEmail:
    """Return the email named by a tag or by our Message-ID.

    Resend sends the tags as an object; earlier it sent a list of names and values.
    """
    listed = {tag.text("name"): tag.text("value") for tag in data.objects("tags")}
    in_list = echo_of(listed.get(EMAIL_ID_KEY, ""), listed.get(EMAIL_TAG_KEY, ""))
    in_object = data.echo("tags")
    return context.named_email(in_list if in_object is NO_ECHO else in_object, data.text("message_id"))


def _event_id(fields: EventFields, context: EventContext) -> str:
    native_id = context.headers.get("svix-id", "") or context.headers.get("webhook-id", "")
    if native_id:
        return f"resend:{redact_all(native_id)}"
    parts = (("type",), ("created_at",), ("data", "email_id"), ("data", "id"), ("data", "click", "link"))
    return ids.event_id("resend", context.provider, *(fields.text(*part) for part in parts))


def _recipients(data: EventFields) -> list[str]:
    """Return the addresses of all recipients, without the names beside them."""
    mailboxes = [item.decode() for name in ("to", "cc", "bcc") for item in data.items(name)] + [data.text("email")]
    return [address for mailbox in mailboxes for address in ADDRESS_PATTERN.findall(mailbox)]


def _server_replies(data: EventFields) -> list[str]:
    """Return the replies of the recipient's mail server."""
    return data.texts("bounce", "diagnosticCode")


def _texts(data: EventFields) -> list[str]:
    """Return all texts about the failure, the mail server's replies first."""
    paths = (("bounce", "message"), ("suppressed", "message"), ("failed", "reason"))
    return [text for text in (*_server_replies(data), *(data.text(*path) for path in paths)) if text]
