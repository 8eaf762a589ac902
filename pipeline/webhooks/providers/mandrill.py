"""Mandrill's webhooks (Mailchimp Transactional): a signed form of many events in, one DeliveryEvent per event out.

https://mailchimp.com/developer/transactional/docs/webhooks/
"""

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EMAIL_ID_KEY, UNCORRELATED, EventContext, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, split_array
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

SIGNATURE_HEADER: Final = "X-Mandrill-Signature"
EVENTS_PARAMETER: Final = "mandrill_events"
MAX_PARAMETERS: Final = 20
MAX_PROBE_BYTES: Final = 200
HORIZON_S: Final = 48 * 60 * 60
"""Longer than it repeats; no time is signed, so nothing hangs on it."""

KINDS: Final = {
    "send": EventKind.SENT,
    "delivered": EventKind.DELIVERED,
    "deferral": EventKind.DEFERRED,
    "hard_bounce": EventKind.BOUNCED,
    "soft_bounce": EventKind.BOUNCED,
    "reject": EventKind.DROPPED,
    "spam": EventKind.COMPLAINED,
    "unsub": EventKind.UNSUBSCRIBED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
}
CLASSES: Final = {"hard_bounce": BounceClass.HARD, "soft_bounce": BounceClass.SOFT}
ROBOT: Final = "robot"
"""What `user_agent_parsed.type` says of a machine."""

# Who it went to and from where, what it said (inbound mail has it all), and who opened it where and when before.
_PERSONAL: Final = frozenset(
    {"email", "sender", "from_email", "from_name", "to", "cc", "ip", "location", "opens", "clicks"}
    | {"subject", "text", "html", "raw_msg", "headers", "attachments", "images", "spam_report"}
)
_VERBATIM: Final = frozenset({"url"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise Forged unless the form was signed with one of ``keys``; no time is signed, so nothing gets stale.

    Base64 HMAC-SHA1 of the URL as it was entered at Mandrill, followed by each parameter's name and value, by name.
    https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/
    """
    given = signatures.from_base64(signatures.required_header(incoming, SIGNATURE_HEADER))
    try:
        signed = incoming.url + "".join(name + value for name, value in sorted(_form(incoming.body)))
    except Unrecognised as error:
        raise InvalidSignatureError(str(error)) from None
    wanted = signatures.hmac_sha1(keys, signed.encode("utf-8", "surrogateescape"))
    if not signatures.equal_to_any(given, wanted):
        raise InvalidSignatureError(
            "the webhook's signature is not its provider's, or the provider knows another URL of ours"
        )


def is_probe(incoming: WebhookRequest) -> bool:
    """Mandrill posts an empty list before it tells the key; without a 2xx it doesn't create the webhook."""
    try:
        return len(incoming.body) <= MAX_PROBE_BYTES and split(incoming.body, incoming.headers) == []
    except Unrecognised:
        return False


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """The events of a form, each as its own bytes. Raises Unrecognised."""
    events = dict(_form(body)).get(EVENTS_PARAMETER)
    if events is None:
        raise Unrecognised(f"a form without `{EVENTS_PARAMETER}`")
    return split_array(events.encode("utf-8", "surrogateescape"))


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """One event in our words, with its own words beside them and without any address.

    What isn't about a mail of ours, changes of its lists (`type`) and inbound mail, is kept as UNKNOWN.
    """
    fields = EventFields.read(event)
    name = fields.text("event") or fields.text("type")
    if not name:
        raise Unrecognised("an object without `event` or `type`")
    message, kind, text = fields.object("msg"), KINDS.get(name, EventKind.UNKNOWN), _diagnosis(fields)
    told, code, enhanced = CLASSES.get(name), status_codes.reply_code(text), status_codes.enhanced_code(text)
    recipient = message.text("email") or fields.text("reject", "email") or fields.text("entry", "email")
    hide = redactor([recipient])
    own = "" if name == "inbound" else fields.text("_id") or message.text("_id")
    identity = (own, name, recipient, fields.text("ts"), fields.text("url"), fields.text("action"))
    return DeliveryEvent(
        email_id=message.email_id("metadata", EMAIL_ID_KEY) or UNCORRELATED,
        event_id=ids.event_id("mandrill", context.provider, *identity),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("ts"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine=ROBOT if fields.text("user_agent_parsed", "type").lower() == ROBOT else "",
        bounce_class=told and classify.webhook_bounce_class(told, code, enhanced, text),
        bounce_type=name if name in CLASSES else "",
        bounce_subtype=message.text("bounce_description"),
        code=code,
        enhanced=enhanced,
        text=redact_all(hide(text)),
        url=hide(fields.text("url")),
        user_agent=hide(fields.text("user_agent")),
        provider_message_id=own,
        native=redacted_native(event, hide, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _form(body: bytes) -> list[tuple[str, str]]:
    """What the form says, byte for byte. Raises Unrecognised."""
    try:
        text = body.decode("ascii")
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise Unrecognised("not a form") from None
    return pairs


def _diagnosis(fields: EventFields) -> str:
    """What the server said, in a deferral to the latest attempt; a list's entry says it in `detail`."""
    attempts = fields.items("msg", "smtp_events")
    last = EventFields.read(attempts[-1]).text("diag") if attempts and attempts[-1].startswith(b"{") else ""
    return fields.text("msg", "diag") or last or fields.text("reject", "detail")
