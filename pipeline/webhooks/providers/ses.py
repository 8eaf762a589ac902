"""Adapter of Amazon SES notifications, which arrive through SNS; each recipient gets a DeliveryEvent.

SES has two formats, event publishing (`eventType`) and identity notifications (`notificationType`); they differ in
that name and in the contents of the `mail` object.
https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from pipeline.errors import Unrecognised
from pipeline.webhooks import sns, status_codes, timestamps
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY, EventContext, NamedEmail, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, echo_of
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import Millis

HORIZON_S: Final = 60 * 60  # https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html

# Type -> our kind, the field of its details, and the field of its list of recipients. An open or a click has no such
# list: SES does not know which of several recipients it was.
KINDS: Final = {
    "Send": (EventKind.SENT, "send", ""),
    "Reject": (EventKind.DROPPED, "reject", ""),
    "Delivery": (EventKind.DELIVERED, "delivery", "recipients"),
    "Bounce": (EventKind.BOUNCED, "bounce", "bouncedRecipients"),
    "Complaint": (EventKind.COMPLAINED, "complaint", "complainedRecipients"),
    "DeliveryDelay": (EventKind.DEFERRED, "deliveryDelay", "delayedRecipients"),
    "Open": (EventKind.OPENED, "open", ""),
    "Click": (EventKind.CLICKED, "click", ""),
    "Rendering Failure": (EventKind.FAILED, "failure", ""),
    "Subscription": (EventKind.UNSUBSCRIBED, "subscription", ""),
}
_UNKNOWN_KIND: Final = (EventKind.UNKNOWN, "", "")

# Bounces and complaints by type and subtype, as far as these say more than the event's type. SES reports a Transient
# bounce after its last attempt, so that all of them are final; while it still tries, it reports a DeliveryDelay.
SUBTYPES: Final = {
    ("Permanent", "General"): (EventKind.BOUNCED, BounceClass.HARD),
    ("Permanent", "NoEmail"): (EventKind.BOUNCED, BounceClass.HARD),
    ("Permanent", "Suppressed"): (EventKind.DROPPED, None),
    ("Permanent", "OnAccountSuppressionList"): (EventKind.DROPPED, None),
    ("Transient", "General"): (EventKind.BOUNCED, BounceClass.SOFT),
    ("Transient", "MailboxFull"): (EventKind.BOUNCED, BounceClass.SOFT),
    ("Transient", "MessageTooLarge"): (EventKind.BOUNCED, BounceClass.SOFT),
    ("Transient", "ContentRejected"): (EventKind.BOUNCED, BounceClass.SOFT),
    ("Transient", "AttachmentRejected"): (EventKind.BOUNCED, BounceClass.SOFT),
    ("Undetermined", "Undetermined"): (EventKind.BOUNCED, BounceClass.SOFT),
    # Complaints by their subtype, or by the feedback's type (RFC 5965 §7.3), two of which are no complaints.
    ("", "OnAccountSuppressionList"): (EventKind.DROPPED, None),
    ("not-spam", ""): (EventKind.UNKNOWN, None),
    ("auth-failure", ""): (EventKind.UNKNOWN, None),
}

# Notifications that SES is connected, in either format; they are no events.
GREETINGS: Final = (
    "Successfully validated SNS topic for Amazon SES event publishing.",
    "AmazonSnsSubscriptionSucceeded",
)

_PERSONAL: Final = frozenset({"emailAddress", "destination", "headers", "commonHeaders", "ipAddress"}) | {
    *("source", "sourceArn", "sourceIp", "sendingAccountId", "callerIdentity", "ses:source-ip", "ses:caller-identity")
}
_VERBATIM: Final = frozenset({"link", "messageId", "feedbackId"})
_WORDS: Final = ("smtpResponse", "reason", "errorMessage")

# The functions of SubscriptionAdapter are the same for all SNS messages.
certificate_url: Final = sns.certificate_url
confirmation_url: Final = sns.confirmation_url


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless SNS signed it for one of ``keys``, the ARNs of the provider's topics."""
    sns.verify_signed(incoming, keys, now_ms, max_age_s)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return one event per recipient that the notification names, or one for the message. Raise Unrecognised."""
    envelope = sns.open_envelope(body)
    if envelope.type != sns.NOTIFICATION or envelope.message.strip() in GREETINGS:
        return []
    event = EventFields.read(envelope.message.encode())
    if _name(event) in GREETINGS:
        return []
    _, detail, listed = KINDS.get(_name(event), _UNKNOWN_KIND)
    recipients = event.items(detail, listed) if listed else []
    common = {name: value for name, value in event.object(detail).raw.items() if name != listed}
    fields = {**event.raw} | ({detail: common} if recipients else {})
    sns_fields = {"MessageId": envelope.message_id, "Timestamp": envelope.timestamp}
    return [
        msgspec.json.encode({"sns": {**sns_fields, "part": part}, "recipient": msgspec.Raw(recipient), "event": fields})
        for part, recipient in enumerate(recipients or [b"null"])
    ]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one recipient's part of a notification as a DeliveryEvent without any address. Raise Unrecognised."""
    fields = EventFields.read(event)
    notification, recipient = fields.object("event"), fields.object("recipient")
    name = _name(notification)
    if not name:
        raise Unrecognised("a notification without `eventType` or `notificationType`")
    detail = notification.object(KINDS.get(name, _UNKNOWN_KIND)[1])
    kind, bounce_class = _kind(name, detail, recipient)
    text = recipient.text("diagnosticCode") or next(filter(None, map(detail.text, _WORDS)), "")
    code, enhanced = status_codes.reply_code(text), status_codes.enhanced_code(recipient.text("status"), text)
    redact = redactor(_addresses(fields))
    named = _named_email(notification.object("mail"), context)
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(lambda _: _occurred_at(fields, detail), "", kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=bounce_class and classify.webhook_bounce_class(bounce_class, code, enhanced, text),
        bounce_type=detail.text("bounceType") or detail.text("complaintFeedbackType") or detail.text("delayType"),
        bounce_subtype=detail.text("bounceSubType") or detail.text("complaintSubType"),
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(detail.text("link")),
        user_agent=redact(detail.text("userAgent")),
        provider_message_id=notification.text("mail", "messageId"),
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _name(event: EventFields) -> str:
    return event.text("eventType") or event.text("notificationType")


def _kind(name: str, detail: EventFields, recipient: EventFields) -> tuple[EventKind, BounceClass | None]:
    kind = KINDS.get(name, _UNKNOWN_KIND)[0]
    if kind is EventKind.BOUNCED:
        return _bounce(detail, recipient)
    if kind is EventKind.COMPLAINED:
        by_type = SUBTYPES.get((detail.text("complaintFeedbackType"), ""), (kind, None))
        return SUBTYPES.get(("", detail.text("complaintSubType")), by_type)
    still_subscribed = kind is EventKind.UNSUBSCRIBED and not _has_opted_out(detail)
    return EventKind.UNKNOWN if still_subscribed else kind, None


def _bounce(detail: EventFields, recipient: EventFields) -> tuple[EventKind, BounceClass | None]:
    """Return kind and class of a recipient in a bounce; it may only be delayed, or the bounce an automatic reply."""
    main, sub = detail.text("bounceType"), detail.text("bounceSubType")
    if recipient.text("action") == "delayed":
        return EventKind.DEFERRED, None
    if (main, sub) == ("Transient", "General") and not (recipient.text("diagnosticCode") or recipient.text("status")):
        # "If you send an email to a recipient who has an active automatic response rule, you might receive this
        # type of notification." A bounce after the last attempt contains its diagnostics; a reply has none.
        return EventKind.REPLIED, None
    default_class = BounceClass.HARD if main == "Permanent" else BounceClass.SOFT
    return SUBTYPES.get((main, sub), (EventKind.BOUNCED, default_class))


def _has_opted_out(detail: EventFields) -> bool:
    """Return whether a contact left all topics, or one to which they had been subscribed."""
    new, old = detail.object("newTopicPreferences"), detail.object("oldTopicPreferences")
    return new.true("unsubscribeAll") or bool(_opted_out_topics(new) - _opted_out_topics(old))


def _opted_out_topics(preferences: EventFields) -> set[str]:
    topics = preferences.objects("topicSubscriptionStatus")
    return {topic.text("topicName") for topic in topics if topic.text("subscriptionStatus") == "OptOut"}


def _addresses(fields: EventFields) -> list[str]:
    recipient = [fields.text("recipient"), fields.text("recipient", "emailAddress")]
    return recipient + fields.texts("event", "mail", "destination")


def _named_email(mail: EventFields, context: EventContext) -> NamedEmail:
    """Return the email named by our tag, else by our Message-ID in the original headers; SES sends with its own."""
    tags = [next(iter(mail.texts("tags", name)), "") for name in (EMAIL_ID_KEY, EMAIL_TAG_KEY)]
    headers = [field.text("value") for field in mail.objects("headers") if field.text("name").lower() == "message-id"]
    return context.named_email(echo_of(*tags), *headers, mail.text("commonHeaders", "messageId"))


def _event_id(fields: EventFields, context: EventContext) -> str:
    if message_id := fields.text("sns", "MessageId"):
        return f"ses:{message_id}:{fields.text('sns', 'part')}"
    notification = fields.object("event")
    parts = (
        notification.text("mail", "messageId"),
        _name(notification),
        *_addresses(fields),
        fields.text("sns", "Timestamp"),
    )
    return ids.event_id("ses", context.provider, *parts)


def _occurred_at(fields: EventFields, detail: EventFields) -> Millis:
    """Return the time of the details, or that of sending if they have none that can be parsed. Raise Unrecognised."""
    times = (detail.text("timestamp"), fields.text("event", "mail", "timestamp"), fields.text("sns", "Timestamp"))
    for text in times:
        # SES documents "2018-10-08T14:05:45 +0000" for one of them.
        with contextlib.suppress(Unrecognised):
            return timestamps.from_iso(text.replace(" +", "+"))
    raise Unrecognised("a notification without a time")
