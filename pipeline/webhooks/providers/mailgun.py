"""Adapter of Mailgun's webhooks, whose signature is a part of the body.

https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks
The form posts of before 2018 are not supported: Mailgun no longer documents them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, NamedEmail, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

HORIZON_S: Final = 9 * 60 * 60  # it retries "during 8 hours": the seven pauses that it lists are 8 h 5 min

KINDS: Final = {
    "accepted": EventKind.QUEUED,
    "rejected": EventKind.DROPPED,
    "delivered": EventKind.DELIVERED,
    "failed": EventKind.BOUNCED,
    "opened": EventKind.OPENED,
    "clicked": EventKind.CLICKED,
    "unsubscribed": EventKind.UNSUBSCRIBED,
    "complained": EventKind.COMPLAINED,
}

# Reasons of a permanent failure. "generic" says nothing about the address, so the server's codes decide.
REASONS: Final = {
    "bounce": (EventKind.BOUNCED, BounceClass.HARD),
    "hardfail": (EventKind.BOUNCED, BounceClass.HARD),
    "generic": (EventKind.BOUNCED, None),
    "espblock": (EventKind.BOUNCED, BounceClass.SOFT),
    "blacklisted": (EventKind.BOUNCED, BounceClass.SOFT),
    "greylisted": (EventKind.BOUNCED, BounceClass.SOFT),
    "old": (EventKind.BOUNCED, BounceClass.SOFT),
    "suppress-bounce": (EventKind.DROPPED, None),
    "suppress-complaint": (EventKind.DROPPED, None),
    "suppress-unsubscribe": (EventKind.DROPPED, None),
}

# https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages  "Open and Click Bot Detection"
MACHINES: Final = {"apple": "apple-mail-privacy", "gmail": "gmail-bot", "generic": "security-scanner"}

_PERSONAL: Final = frozenset({"recipient", "recipients", "sender", "targets", "mail-from", "to", "from", "subject"}) | {
    *("ip", "geolocation", "storage", "attachments", "routes")
}
_VERBATIM: Final = frozenset({"url", "message-id"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless it was signed with one of ``keys``, at most ``max_age_s`` ago.

    The signature covers its time and a token only, not the event: see `token`.
    """
    signature = _signature(incoming)
    timestamp, code = signature.text("timestamp"), signature.text("token")
    digest = signatures.from_hex(signature.text("signature"))
    if not code or not signatures.equal_to_any(digest, signatures.hmac_sha256(keys, f"{timestamp}{code}".encode())):
        raise InvalidSignatureError("the webhook's signature is not its provider's")
    signatures.verify_fresh(timestamp, now_ms, max_age_s)


def token(incoming: WebhookRequest) -> tuple[str, bytes]:
    """Return the token and a digest of the only body for which it may be used."""
    return _signature(incoming).text("token"), hashlib.sha256(incoming.body).digest()


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the only event of a request, without its signature. Raise Unrecognised."""
    event = EventFields.read(body).raw.get("event-data")
    if event is None:
        raise Unrecognised("an object without `event-data`")
    return [bytes(event)]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name, status = fields.text("event"), fields.object("delivery-status")
    if not name:
        raise Unrecognised("an object without `event`")
    kind, bounce_class = _kind(fields, status)
    text = _reason(fields, status)
    redact = redactor(
        [fields.text("recipient"), fields.text("envelope", "targets"), fields.text("message", "headers", "to")]
    )
    named = _named_email(fields, context)
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("timestamp"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine=_machine(fields.text("client-info", "bot")) if kind in _READER_KINDS else "",
        bounce_class=bounce_class,
        bounce_type=fields.text("severity"),
        bounce_subtype=fields.text("reason"),
        code=status_codes.reply_code(status.text("code")),
        enhanced=status_codes.enhanced_code(status.text("enhanced-code"), status.text("bounce-code"), text),
        text=redact_all(redact(text)),
        url=redact(fields.text("url")),
        user_agent=redact(fields.text("client-info", "user-agent")),
        provider_message_id=fields.text("message", "headers", "message-id").strip("<>"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


_READER_KINDS: Final = (EventKind.OPENED, EventKind.CLICKED)


def _signature(incoming: WebhookRequest) -> EventFields:
    try:
        return EventFields.read(incoming.body).object("signature")
    except Unrecognised as error:
        raise InvalidSignatureError(str(error)) from None


def _kind(fields: EventFields, status: EventFields) -> tuple[EventKind, BounceClass | None]:
    kind = KINDS.get(fields.text("event"), EventKind.UNKNOWN)
    if kind is not EventKind.BOUNCED:
        return kind, None
    if fields.text("severity") == "temporary":
        return EventKind.DEFERRED, None
    kind, reported_class = REASONS.get(fields.text("reason"), (kind, None))
    return kind, _bounce_class(reported_class, status) if kind is EventKind.BOUNCED else None


def _bounce_class(reported_class: BounceClass | None, status: EventFields) -> BounceClass:
    """Return hard only if Mailgun, the code or the server's reply says that there is no such address."""
    message = status.text("message").removeprefix("smtp;").strip()
    code, enhanced = (
        status_codes.reply_code(status.text("code")),
        status.text("enhanced-code") or status.text("bounce-code"),
    )
    if reported_class is None:
        return _class_by_codes(status)
    return classify.webhook_bounce_class(reported_class, code, enhanced, message)


def _class_by_codes(status: EventFields) -> BounceClass:
    if status.text("bounce-type") == "hard":
        return BounceClass.HARD
    reply = f"{status.text('code')} {status.text('message').removeprefix('smtp;').strip()}"
    return classify.classify_reply(status.text("enhanced-code") or status.text("bounce-code"), reply).bounce_class


def _reason(fields: EventFields, status: EventFields) -> str:
    texts = (status.text("message"), status.text("description"), fields.text("reject", "reason"))
    return next(filter(None, texts), "")


def _machine(bot: str) -> str:
    return MACHINES.get(bot, "bot") if bot else ""


def _named_email(fields: EventFields, context: EventContext) -> NamedEmail:
    message_id = fields.text("message", "headers", "message-id").strip("<>")
    return context.named_email(fields.echo("user-variables"), f"<{message_id}>")


def _event_id(fields: EventFields, context: EventContext) -> str:
    """Return the event's id with its time: the `id` alone is only "guaranteed to be unique within a day".

    The signature's token would not do: the domain's and the account's webhook report the same event with two tokens.
    """
    if native_id := fields.text("id"):
        return f"mailgun:{native_id}:{fields.text('timestamp')}"
    parts = (
        fields.text("message", "headers", "message-id"),
        *map(fields.text, ("event", "recipient", "timestamp", "url")),
    )
    return ids.event_id("mailgun", context.provider, *parts)
