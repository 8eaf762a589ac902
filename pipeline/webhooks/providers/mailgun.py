"""Mailgun's webhooks: a request with its signature inside in, one DeliveryEvent out.

https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhooks
The form posts of before 2018 are not read: Mailgun documents them no more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EMAIL_ID_KEY, UNCORRELATED, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId

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

# Why it failed for good. "generic" says nothing of the address; the codes may.
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
    """Raise Forged unless the signature is made with one of ``keys``, at most ``max_age_s`` ago.

    It covers its own time and a token only, not the event: see `token`.
    """
    signature = _signature(incoming)
    timestamp, code = signature.text("timestamp"), signature.text("token")
    given = signatures.from_hex(signature.text("signature"))
    if not code or not signatures.equal_to_any(given, signatures.hmac_sha256(keys, f"{timestamp}{code}".encode())):
        raise InvalidSignatureError("the webhook's signature is not its provider's")
    signatures.verify_fresh(timestamp, now_ms, max_age_s)


def token(incoming: WebhookRequest) -> tuple[str, bytes]:
    """The token, good for this body only."""
    return _signature(incoming).text("token"), hashlib.sha256(incoming.body).digest()


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """The one event of a request, without its signature. Raises Unrecognised."""
    event = EventFields.read(body).raw.get("event-data")
    if event is None:
        raise Unrecognised("an object without `event-data`")
    return [bytes(event)]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One event in our words, with its own words beside them and without any address."""
    fields = EventFields.read(event)
    name, status = fields.text("event"), fields.object("delivery-status")
    if not name:
        raise Unrecognised("an object without `event`")
    kind, bounce_class = _kind(fields, status)
    text = _said(fields, status)
    hide = redactor(
        [fields.text("recipient"), fields.text("envelope", "targets"), fields.text("message", "headers", "to")]
    )
    return DeliveryEvent(
        email_id=_email_id(fields, context),
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("timestamp"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine=_machine(fields.text("client-info", "bot")) if kind in _BY_READERS else "",
        bounce_class=bounce_class,
        bounce_type=fields.text("severity"),
        bounce_subtype=fields.text("reason"),
        code=status_codes.reply_code(status.text("code")),
        enhanced=status_codes.enhanced_code(status.text("enhanced-code"), status.text("bounce-code"), text),
        text=redact_all(hide(text)),
        url=hide(fields.text("url")),
        user_agent=hide(fields.text("client-info", "user-agent")),
        provider_message_id=fields.text("message", "headers", "message-id").strip("<>"),
        native=redacted_native(event, hide, personal=_PERSONAL, verbatim=_VERBATIM),
    )


_BY_READERS: Final = (EventKind.OPENED, EventKind.CLICKED)


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
    kind, told = REASONS.get(fields.text("reason"), (kind, None))
    return kind, _bounce_class(told, status) if kind is EventKind.BOUNCED else None


def _bounce_class(told: BounceClass | None, status: EventFields) -> BounceClass:
    """Return hard only where Mailgun, the code or the server's words say that there is no such address."""
    message = status.text("message").removeprefix("smtp;").strip()
    code, enhanced = (
        status_codes.reply_code(status.text("code")),
        status.text("enhanced-code") or status.text("bounce-code"),
    )
    return _by_codes(status) if told is None else classify.webhook_bounce_class(told, code, enhanced, message)


def _by_codes(status: EventFields) -> BounceClass:
    if status.text("bounce-type") == "hard":
        return BounceClass.HARD
    said = f"{status.text('code')} {status.text('message').removeprefix('smtp;').strip()}"
    return classify.classify_reply(status.text("enhanced-code") or status.text("bounce-code"), said).bounce_class


def _said(fields: EventFields, status: EventFields) -> str:
    told = (status.text("message"), status.text("description"), fields.text("reject", "reason"))
    return next(filter(None, told), "")


def _machine(bot: str) -> str:
    return MACHINES.get(bot, "bot") if bot else ""


def _email_id(fields: EventFields, context: EventContext) -> EmailId:
    given = fields.email_id("user-variables", EMAIL_ID_KEY)
    named = fields.text("message", "headers", "message-id").strip("<>")
    return given or context.token_readers.message_id(f"<{named}>") or UNCORRELATED


def _event_id(fields: EventFields, context: EventContext) -> str:
    """Its `id` is "guaranteed to be unique within a day": with its time, for ever.

    The signature's token would make two of an event that two webhooks tell, the domain's and the account's.
    """
    if given := fields.text("id"):
        return f"mailgun:{given}:{fields.text('timestamp')}"
    parts = (
        fields.text("message", "headers", "message-id"),
        *map(fields.text, ("event", "recipient", "timestamp", "url")),
    )
    return ids.event_id("mailgun", context.provider, *parts)
