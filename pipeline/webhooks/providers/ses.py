"""Amazon SES over SNS: a signed notification in, one DeliveryEvent per recipient out.

SES speaks two dialects, of event publishing (`eventType`) and of identity notifications (`notificationType`); they
differ in that name and in what the `mail` object holds.
https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from pipeline.errors import Unrecognised
from pipeline.webhooks import sns, status_codes, timestamps
from pipeline.webhooks.base import EMAIL_ID_KEY, UNCORRELATED, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, as_email_id
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId, Millis

HORIZON_S: Final = 60 * 60  # https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html

# An event's name -> our word, the object that holds its details, and the list of whom it is about. An open or a click
# names nobody: SES can't tell who of several recipients it was.
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

# Bounces and complaints by type and subtype, where these say more than the event's name. SES tells a Transient bounce
# when it has stopped trying, so all are final; a delay that it goes on with is a DeliveryDelay.
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
    # Complaints: their subtype, or the feedback's type (RFC 5965 §7.3), of which two are no complaints.
    ("", "OnAccountSuppressionList"): (EventKind.DROPPED, None),
    ("not-spam", ""): (EventKind.UNKNOWN, None),
    ("auth-failure", ""): (EventKind.UNKNOWN, None),
}

# Not events: SES says that it is connected now, in either dialect.
GREETINGS: Final = (
    "Successfully validated SNS topic for Amazon SES event publishing.",
    "AmazonSnsSubscriptionSucceeded",
)

_PERSONAL: Final = frozenset({"emailAddress", "destination", "headers", "commonHeaders", "ipAddress"}) | {
    *("source", "sourceArn", "sourceIp", "sendingAccountId", "callerIdentity", "ses:source-ip", "ses:caller-identity")
}
_VERBATIM: Final = frozenset({"link", "messageId", "feedbackId"})
_WORDS: Final = ("smtpResponse", "reason", "errorMessage")

# The parts of `Subscribing`, as SNS has them for all its messages.
certificate_url: Final = sns.certificate_url
confirmation_url: Final = sns.confirmation_url


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise Forged unless SNS signed it for one of ``keys``, the ARNs of the provider's topics."""
    sns.verify_signed(incoming, keys, now_ms, max_age_s)


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """One event per recipient that the notification names, or one for the message. Raises Unrecognised."""
    envelope = sns.open_envelope(body)
    if envelope.type != sns.NOTIFICATION or envelope.message.strip() in GREETINGS:
        return []
    event = EventFields.read(envelope.message.encode())
    if _name(event) in GREETINGS:
        return []
    _, detail, listed = KINDS.get(_name(event), _UNKNOWN_KIND)
    recipients = event.items(detail, listed) if listed else []
    about = {name: value for name, value in event.object(detail).raw.items() if name != listed}
    told = {**event.raw} | ({detail: about} if recipients else {})
    sent = {"MessageId": envelope.message_id, "Timestamp": envelope.timestamp}
    return [
        msgspec.json.encode({"sns": {**sent, "part": part}, "recipient": msgspec.Raw(one), "event": told})
        for part, one in enumerate(recipients or [b"null"])
    ]


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One recipient's part of a notification in our words, without any address."""
    whole = EventFields.read(event)
    told, recipient = whole.object("event"), whole.object("recipient")
    name = _name(told)
    if not name:
        raise Unrecognised("a notification without `eventType` or `notificationType`")
    detail = told.object(KINDS.get(name, _UNKNOWN_KIND)[1])
    kind, bounce_class = _kind(name, detail, recipient)
    text = recipient.text("diagnosticCode") or next(filter(None, map(detail.text, _WORDS)), "")
    code, enhanced = status_codes.reply_code(text), status_codes.enhanced_code(recipient.text("status"), text)
    hide = redactor(_addresses(whole))
    return DeliveryEvent(
        email_id=_email_id(told.object("mail"), context),
        event_id=_event_id(whole, context),
        kind=kind,
        occurred_at=timestamps.event_time(lambda _: _occurred_at(whole, detail), "", kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=bounce_class and classify.webhook_bounce_class(bounce_class, code, enhanced, text),
        bounce_type=detail.text("bounceType") or detail.text("complaintFeedbackType") or detail.text("delayType"),
        bounce_subtype=detail.text("bounceSubType") or detail.text("complaintSubType"),
        code=code,
        enhanced=enhanced,
        text=redact_all(hide(text)),
        url=hide(detail.text("link")),
        user_agent=hide(detail.text("userAgent")),
        provider_message_id=told.text("mail", "messageId"),
        native=redacted_native(event, hide, personal=_PERSONAL, verbatim=_VERBATIM),
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
    stays = kind is EventKind.UNSUBSCRIBED and not _opted_out(detail)
    return EventKind.UNKNOWN if stays else kind, None


def _bounce(detail: EventFields, recipient: EventFields) -> tuple[EventKind, BounceClass | None]:
    """A bounce object may hold recipients whose delivery was only delayed, and answers that are no bounces at all."""
    main, sub = detail.text("bounceType"), detail.text("bounceSubType")
    if recipient.text("action") == "delayed":
        return EventKind.DEFERRED, None
    if (main, sub) == ("Transient", "General") and not (recipient.text("diagnosticCode") or recipient.text("status")):
        # "If you send an email to a recipient who has an active automatic response rule, you might receive this
        # type of notification." A bounce that SES gave up on brings its last diagnostics; this has none.
        return EventKind.REPLIED, None
    other = BounceClass.HARD if main == "Permanent" else BounceClass.SOFT
    return SUBTYPES.get((main, sub), (EventKind.BOUNCED, other))


def _opted_out(detail: EventFields) -> bool:
    """Whether a contact left all topics, or one that they had been on."""
    new, old = detail.object("newTopicPreferences"), detail.object("oldTopicPreferences")
    return new.true("unsubscribeAll") or bool(_left(new) - _left(old))


def _left(preferences: EventFields) -> set[str]:
    topics = preferences.objects("topicSubscriptionStatus")
    return {topic.text("topicName") for topic in topics if topic.text("subscriptionStatus") == "OptOut"}


def _addresses(whole: EventFields) -> list[str]:
    named = [whole.text("recipient"), whole.text("recipient", "emailAddress")]
    return named + whole.texts("event", "mail", "destination")


def _email_id(mail: EventFields, context: EventContext) -> EmailId:
    """By the tag that we set, else by our Message-ID among the original headers; SES gives the message another."""
    tagged = map(as_email_id, mail.texts("tags", EMAIL_ID_KEY))
    headers = [one.text("value") for one in mail.objects("headers") if one.text("name").lower() == "message-id"]
    named = map(context.token_readers.message_id, [*headers, mail.text("commonHeaders", "messageId")])
    return next(filter(None, (*tagged, *named)), UNCORRELATED)


def _event_id(whole: EventFields, context: EventContext) -> str:
    if given := whole.text("sns", "MessageId"):
        return f"ses:{given}:{whole.text('sns', 'part')}"
    told = whole.object("event")
    parts = (told.text("mail", "messageId"), _name(told), *_addresses(whole), whole.text("sns", "Timestamp"))
    return ids.event_id("ses", context.provider, *parts)


def _occurred_at(whole: EventFields, detail: EventFields) -> Millis:
    """The detail's own time, else the sending's for what SES itself did; an ISP's may be no time at all."""
    told = (detail.text("timestamp"), whole.text("event", "mail", "timestamp"), whole.text("sns", "Timestamp"))
    for text in told:
        # "2018-10-08T14:05:45 +0000", says the documentation of one of them.
        with contextlib.suppress(Unrecognised):
            return timestamps.from_iso(text.replace(" +", "+"))
    raise Unrecognised("a notification without a time")
