"""Adapter of the webhooks of Mandrill (Mailchimp Transactional), which are signed HTML forms with many events.

https://mailchimp.com/developer/transactional/docs/webhooks/
"""

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, WebhookRequest
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
"""Longer than Mandrill repeats. It has no effect: Mandrill signs no time."""

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
"""The value of `user_agent_parsed.type` for a machine."""

# Addresses and places, contents (in events of inbound mail), and the earlier opens and clicks.
_PERSONAL: Final = frozenset(
    {"email", "sender", "from_email", "from_name", "to", "cc", "ip", "location", "opens", "clicks"}
    | {"subject", "text", "html", "raw_msg", "headers", "attachments", "images", "spam_report"}
)
_VERBATIM: Final = frozenset({"url"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless the form was signed with one of ``keys``. Mandrill signs no time.

    Base64 HMAC-SHA1 of the URL that is configured at Mandrill, followed by each parameter's name and value, by name.
    https://mailchimp.com/developer/transactional/guides/track-respond-activity-webhooks/
    """
    signature = signatures.from_base64(signatures.required_header(incoming, SIGNATURE_HEADER))
    try:
        signed = incoming.url + "".join(name + value for name, value in sorted(_form(incoming.body)))
    except Unrecognised as error:
        raise InvalidSignatureError(str(error)) from None
    expected = signatures.hmac_sha1(keys, signed.encode("utf-8", "surrogateescape"))
    if not signatures.equal_to_any(signature, expected):
        raise InvalidSignatureError(
            "the webhook's signature is not its provider's, or the provider knows another URL of ours"
        )


def is_probe(incoming: WebhookRequest) -> bool:
    """Return whether this is Mandrill's test of the URL, an empty list.

    Mandrill posts it before it shows the key, and does not create the webhook without a 2xx.
    """
    try:
        return len(incoming.body) <= MAX_PROBE_BYTES and split(incoming.body, incoming.headers) == []
    except Unrecognised:
        return False


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the events of a form, each as its own bytes. Raise Unrecognised."""
    events = dict(_form(body)).get(EVENTS_PARAMETER)
    if events is None:
        raise Unrecognised(f"a form without `{EVENTS_PARAMETER}`")
    return split_array(events.encode("utf-8", "surrogateescape"))


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent without any address. Raise Unrecognised.

    Inbound mail and changes of Mandrill's lists (`type`), which concern no email of ours, become UNKNOWN.
    """
    fields = EventFields.read(event)
    name = fields.text("event") or fields.text("type")
    if not name:
        raise Unrecognised("an object without `event` or `type`")
    message, kind, text = fields.object("msg"), KINDS.get(name, EventKind.UNKNOWN), _diagnosis(fields)
    reported_class, code, enhanced = CLASSES.get(name), status_codes.reply_code(text), status_codes.enhanced_code(text)
    recipient = message.text("email") or fields.text("reject", "email") or fields.text("entry", "email")
    redact = redactor([recipient])
    message_id = "" if name == "inbound" else fields.text("_id") or message.text("_id")
    identity = (message_id, name, recipient, fields.text("ts"), fields.text("url"), fields.text("action"))
    named = context.named_email(message.echo("metadata"))
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=ids.event_id("mandrill", context.provider, *identity),
        kind=kind,
        occurred_at=timestamps.event_time(timestamps.from_seconds, fields.text("ts"), kind, context.received_at),
        recorded_at=context.received_at,
        provider=context.provider,
        machine=ROBOT if fields.text("user_agent_parsed", "type").lower() == ROBOT else "",
        bounce_class=reported_class and classify.webhook_bounce_class(reported_class, code, enhanced, text),
        bounce_type=name if name in CLASSES else "",
        bounce_subtype=message.text("bounce_description"),
        code=code,
        enhanced=enhanced,
        text=redact_all(redact(text)),
        url=redact(fields.text("url")),
        user_agent=redact(fields.text("user_agent")),
        provider_message_id=message_id,
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _form(body: bytes) -> list[tuple[str, str]]:
    """Return the form's parameters, with bytes that are not UTF-8 as surrogates. Raise Unrecognised."""
    try:
        text = body.decode("ascii")
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise Unrecognised("not a form") from None
    return pairs


def _diagnosis(fields: EventFields) -> str:
    """Return the server's reply: in a deferral that to the latest attempt, in an entry of a list its `detail`."""
    attempts = fields.items("msg", "smtp_events")
    latest = EventFields.read(attempts[-1]).text("diag") if attempts and attempts[-1].startswith(b"{") else ""
    return fields.text("msg", "diag") or latest or fields.text("reject", "detail")
