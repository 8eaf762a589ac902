"""SendGrid's Event Webhook: a signed request in, one DeliveryEvent per event out; also the sandbox's format.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
"""

import base64
import binascii
import functools
import re
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pipeline.errors import Forged, Uncorrelated, Unrecognised
from topics import ids
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId, Millis

SIGNATURE_HEADER: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER: Final = "X-Twilio-Email-Event-Webhook-Timestamp"
EMAIL_ID_ARG: Final = "mailfold_email_id"
"""The custom argument (`unique_args`) that we put into the message; SendGrid repeats it in each event."""

MAX_AHEAD_S: Final = 300
"""A signer's clock may be ahead by this much; more would stretch the time in which a request can be replayed."""

KINDS: Final = {
    "processed": EventKind.QUEUED,
    "deferred": EventKind.DEFERRED,
    "delivered": EventKind.DELIVERED,
    "bounce": EventKind.BOUNCED,
    "dropped": EventKind.DROPPED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "spamreport": EventKind.COMPLAINED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "group_unsubscribe": EventKind.UNSUBSCRIBED,
}

# A dropped event is a suppression, unless SendGrid names one of these: then it could not be sent.
FAILURES: Final = ("spam content", "invalid smtpapi header", "recipient list over package quota")

# What SendGrid's words say about the *address*. "Unclassified" says nothing: then `type` decides.
# https://www.twilio.com/docs/sendgrid/ui/analytics-and-reporting/bounce-and-block-classifications
CLASSES: Final = {
    "invalid address": BounceClass.HARD,
    "mailbox unavailable": BounceClass.SOFT,
    "technical": BounceClass.SOFT,
    "content": BounceClass.SOFT,
    "reputation": BounceClass.SOFT,
    "frequency or volume": BounceClass.SOFT,
    "frequency or volume too high": BounceClass.SOFT,
}

Correlate = Callable[[str], EmailId | None]
"""Which email a Message-ID names, if it is one of ours."""

Fields = dict[str, msgspec.Raw]

_PERSONAL: Final = ("email", "ip")
_ADDRESS: Final = re.compile(r"[^\s<>\"'(),:;@\[\]]+@[^\s<>\"'(),:;@\[\]]+")
_QUOTES: Final = re.compile(r"[\"\\\s,{}\[\]]")
_CODE: Final = re.compile(r"^\s*([245]\d\d)\b")
_ENHANCED: Final = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
_HIDDEN: Final = "[address]"
_YEAR_5138: Final = 1e11
_WORDS: Final = ("reason", "response")


def verify(public_key: str, headers: Mapping[str, str], body: bytes, now_ms: int, max_age_s: int) -> None:
    """Raise Forged unless ``body`` was signed by the holder of ``public_key``, at most ``max_age_s`` ago.

    ECDSA over P-256 with SHA-256 of the timestamp header's bytes followed by the raw body; the key
    is base64 DER, as SendGrid's settings page shows it.
    https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
    """
    lower = {name.lower(): value for name, value in headers.items()}
    signature, timestamp = lower.get(SIGNATURE_HEADER.lower(), ""), lower.get(TIMESTAMP_HEADER.lower(), "")
    if not signature or not timestamp:
        raise Forged(f"{SIGNATURE_HEADER} or {TIMESTAMP_HEADER} is missing")
    try:
        raw = base64.b64decode(signature, validate=True)
        _key(public_key).verify(raw, timestamp.encode("latin-1", "replace") + body, ec.ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        raise Forged("the webhook's signature is not its provider's") from None
    _refuse_stale(timestamp, now_ms, max_age_s)


def split(body: bytes) -> list[bytes]:
    """The events of a request, each as its own bytes. Raises Unrecognised."""
    try:
        return [bytes(event) for event in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unrecognised(f"not a JSON array of events: {error}") from None


def normalize(event: bytes, *, provider: str, received_at: Millis, correlate: Correlate) -> DeliveryEvent:
    """One event in our words, with its own words beside them and without any address.

    Raises Unrecognised for what is no event, Uncorrelated for an event that names no email of ours.
    An event of an unknown name is kept as UNKNOWN.
    """
    fields = _fields(event)
    name, text = _text(fields, "event"), _text(fields, "reason") or _text(fields, "response")
    hide = _hider(_text(fields, "email"))
    email_id = _email_id(fields, correlate)
    kind = _kind(name, text)
    enhanced = _ENHANCED.search(_text(fields, "status")) or _ENHANCED.search(text)
    code = _CODE.match(text)
    return DeliveryEvent(
        email_id=email_id,
        event_id=_event_id(fields, provider, email_id),
        kind=kind,
        occurred_at=_occurred_at(fields),
        recorded_at=received_at,
        provider=provider,
        machine="sg_machine_open" if _text(fields, "sg_machine_open") == "true" else "",
        bounce_class=_bounce_class(fields) if kind is EventKind.BOUNCED else None,
        bounce_type=_text(fields, "type"),
        bounce_subtype=_text(fields, "bounce_classification"),
        code=int(code[1]) if code else 0,
        enhanced=enhanced[1] if enhanced else "",
        text=_hide_all(hide(text)),
        url=hide(_text(fields, "url")),
        user_agent=_text(fields, "useragent"),
        provider_message_id=_text(fields, "sg_message_id"),
        native=_native(fields, hide),
    )


@functools.lru_cache(maxsize=64)
def _key(public_key: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(base64.b64decode("".join(public_key.split()), validate=True))
    except (ValueError, UnsupportedAlgorithm):
        raise Forged("the provider's webhook key is not a base64 DER public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Forged("the provider's webhook key is not a P-256 key")
    return key


def _refuse_stale(timestamp: str, now_ms: int, max_age_s: int) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        raise Forged(f"{TIMESTAMP_HEADER} is not a Unix time")
    age_ms = now_ms - int(timestamp) * 1000
    if not -MAX_AHEAD_S * 1000 <= age_ms <= max_age_s * 1000:
        raise Forged(f"the webhook's signature is stale: {age_ms / 1000:.0f} s old")


def _fields(event: bytes) -> Fields:
    try:
        # Two passes: Raw alone would let broken JSON inside a field through.
        msgspec.json.decode(event)
        fields = msgspec.json.decode(event, type=Fields)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unrecognised(f"not an event object: {error}") from None
    if not _text(fields, "event"):
        raise Unrecognised("an object without `event`")
    return fields


def _text(fields: Fields, name: str) -> str:
    """A field's text: SendGrid sends some numbers as strings and the other way round; null and absent are empty."""
    raw = bytes(fields.get(name, b""))
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str).replace("\x00", "")
    return "" if raw in (b"", b"null") or raw[:1] in b"{[" else raw.decode()


def _email_id(fields: Fields, correlate: Correlate) -> EmailId:
    given = _text(fields, EMAIL_ID_ARG)
    try:
        return EmailId(str(uuid.UUID(given)))
    except ValueError:
        found = correlate(_text(fields, "smtp-id")) if "smtp-id" in fields else None
    if found is None:
        raise Uncorrelated(f"{_text(fields, 'event')}: no {EMAIL_ID_ARG}, and smtp-id is none of ours")
    return found


def _event_id(fields: Fields, provider: str, email_id: EmailId) -> str:
    given = _text(fields, "sg_event_id")
    if given:
        return f"sendgrid:{given}"
    parts = ("sg_message_id", "event", "timestamp", "url")
    return ids.event_id("sendgrid", provider, email_id, *(_text(fields, part) for part in parts))


def _kind(name: str, text: str) -> EventKind:
    kind = KINDS.get(name, EventKind.UNKNOWN)
    if kind is EventKind.DROPPED and text.lower().startswith(FAILURES):
        return EventKind.FAILED
    return kind


def _bounce_class(fields: Fields) -> BounceClass:
    """Blocked is final for this email and says nothing against the address; bounce is the address's fault."""
    if _text(fields, "type") == "blocked":
        return BounceClass.SOFT
    return CLASSES.get(_text(fields, "bounce_classification").lower(), BounceClass.HARD)


def _occurred_at(fields: Fields) -> Millis:
    try:
        seconds = float(_text(fields, "timestamp"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < _YEAR_5138:
        raise Unrecognised("`timestamp` is not a Unix time in seconds")
    return int(seconds * 1000)


def _hider(address: str) -> Callable[[str], str]:
    """Replaces the recipient's address, plain or percent-encoded; `delivery-events` carries none.

    Only an address that can't reach beyond one JSON string is looked for literally.
    """
    if "@" not in address or _QUOTES.search(address):
        return _hide_all
    forms = {address, urllib.parse.quote(address, safe=""), urllib.parse.quote(address)}
    pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)), re.IGNORECASE)
    return lambda text: pattern.sub(_HIDDEN, text)


def _hide_all(text: str) -> str:
    """Servers like to repeat addresses in their answers, forwarding targets too."""
    return _ADDRESS.sub(_HIDDEN, text)


def _native(fields: Fields, hide: Callable[[str], str]) -> msgspec.Raw:
    kept = {name: hide(bytes(raw).decode()) for name, raw in fields.items() if name not in _PERSONAL}
    kept |= {name: _hide_all(kept[name]) for name in _WORDS if name in kept}
    return msgspec.Raw(msgspec.json.encode({name: msgspec.Raw(text.encode()) for name, text in kept.items()}))
