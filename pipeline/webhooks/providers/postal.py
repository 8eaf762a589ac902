"""Adapter of Postal's webhooks, which are signed with the installation's key.

https://docs.postalserver.io/developer/webhooks
"""

from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, status_codes, timestamps
from pipeline.webhooks.base import EventContext, NamedEmail, WebhookRequest
from pipeline.webhooks.bounces import classify
from pipeline.webhooks.fields import EventFields, embedded_echo, split_object
from pipeline.webhooks.keys import readable_keys, rsa_key
from pipeline.webhooks.redaction import redact_all, redacted_native, redactor
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind

SIGNATURE_HEADER: Final = "X-Postal-Signature-256"
OLD_SIGNATURE_HEADER: Final = "X-Postal-Signature"
HORIZON_S: Final = 36 * 60
"""Postal repeats after 2, 3, 6, 10 and 15 minutes."""

KINDS: Final = {
    "MessageSent": EventKind.DELIVERED,
    "MessageDelayed": EventKind.DEFERRED,
    "MessageDeliveryFailed": EventKind.FAILED,
    "MessageHeld": EventKind.QUEUED,
    "MessageBounced": EventKind.BOUNCED,
    "MessageLinkClicked": EventKind.CLICKED,
    "MessageLoaded": EventKind.OPENED,
}
SUPPRESSED: Final = "is on the suppression list"
"""A part of the details of a held message that Postal will not send."""

_PERSONAL: Final = frozenset({"to", "from", "subject", "ip_address"})
_VERBATIM: Final = frozenset({"url", "message_id"})


def verify(incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless the body was signed by the holder of one of ``keys``.

    RSA (PKCS#1 v1.5) with SHA-256; Postal before version 3 has SHA-1 only. A key is base64 DER, as
    `postal default-dkim-record` shows it after `p=`, or PEM. Postal signs no time; a replayed event changes nothing,
    as each has an id.
    """
    sha256_signature = incoming.headers.get(SIGNATURE_HEADER.lower(), "")
    signature = signatures.from_base64(sha256_signature or signatures.required_header(incoming, OLD_SIGNATURE_HEADER))
    algorithm = SHA256() if sha256_signature else SHA1()  # noqa: S303 - nobody can compute a second preimage of SHA-1
    if not any(_signed_by(key, signature, incoming.body, algorithm) for key in readable_keys(rsa_key, keys)):
        raise InvalidSignatureError("the webhook's signature is not its provider's")


def split(body: bytes, headers: Mapping[str, str]) -> list[bytes]:
    """Return the body as the only event. Raise Unrecognised."""
    return split_object(body)


def normalize(event: bytes, context: EventContext) -> DeliveryEvent:
    """Return one event as a DeliveryEvent; `native` holds its own fields without addresses. Raise Unrecognised."""
    fields = EventFields.read(event)
    name, payload = fields.text("event"), fields.object("payload")
    if not name:
        raise Unrecognised("an object without `event`")
    message = payload.object("original_message" if "original_message" in payload.raw else "message")
    is_outgoing = message.text("direction") != "incoming"
    details, output = payload.text("details"), payload.text("output")
    code = status_codes.reply_code(output)
    kind = _kind(name, details, code) if is_outgoing else EventKind.UNKNOWN
    redact = redactor([message.text("to")])
    named = _named_email(message, context) if is_outgoing else NamedEmail()
    return DeliveryEvent(
        email_id=named.proven,
        claimed_email_id=named.claimed,
        event_id=_event_id(fields, context),
        kind=kind,
        occurred_at=timestamps.event_time(
            timestamps.from_seconds, payload.text("timestamp") or fields.text("timestamp"), kind, context.received_at
        ),
        recorded_at=context.received_at,
        provider=context.provider,
        bounce_class=_bounce_class(name, output) if kind is EventKind.BOUNCED else None,
        bounce_type=payload.text("status"),
        code=code,
        enhanced=status_codes.enhanced_code(output),
        text=redact_all(redact(output.strip() or details)),
        url=redact(payload.text("url")),
        user_agent=redact(payload.text("user_agent")),
        provider_message_id=message.text("id") if is_outgoing else "",
        native=redacted_native(event, redact, personal=_PERSONAL, verbatim=_VERBATIM),
    )


def _signed_by(key: rsa.RSAPublicKey, signature: bytes, body: bytes, algorithm: SHA1 | SHA256) -> bool:
    try:
        key.verify(signature, body, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True


def _kind(name: str, details: str, code: int) -> EventKind:
    """Return the kind; a failure is a bounce if the recipient's server refused, else Postal gave up or could not send.

    A message held because of the suppression list is dropped.
    """
    kind = KINDS.get(name, EventKind.UNKNOWN)
    if kind is EventKind.FAILED and code >= 500:
        return EventKind.BOUNCED
    if kind is EventKind.QUEUED and SUPPRESSED in details:
        return EventKind.DROPPED
    return kind


def _bounce_class(name: str, output: str) -> BounceClass:
    """Return soft for returned mail, as Postal does not report its reason; else the class of the server's reply."""
    return BounceClass.SOFT if name == "MessageBounced" else classify.classify_reply("", output).bounce_class


def _named_email(message: EventFields, context: EventContext) -> NamedEmail:
    """Return the email named by the tag, or by our Message-ID, which Postal does not change."""
    return context.named_email(embedded_echo(message.text("tag")), f"<{message.text('message_id')}>")


def _event_id(fields: EventFields, context: EventContext) -> str:
    native_id = fields.text("uuid")
    if native_id:
        return f"postal:{native_id}"
    parts = (("event",), ("timestamp",), ("payload", "message", "id"), ("payload", "original_message", "id"))
    return ids.event_id("postal", context.provider, *(fields.text(*part) for part in parts))
