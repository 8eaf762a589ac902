"""Decode and verify Amazon SNS messages, which carry the events of SES; the SES adapter calls it. Nothing does I/O.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

import functools
import re
import urllib.parse
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import signatures, timestamps
from pipeline.webhooks.base import WebhookRequest

NOTIFICATION: Final = "Notification"
SUBSCRIPTION: Final = "SubscriptionConfirmation"
UNSUBSCRIPTION: Final = "UnsubscribeConfirmation"

MAX_ENVELOPE_BYTES: Final = 1_000_000
"""Largest accepted request; SNS limits messages to 256 kB."""
MAX_SIGNATURE_CHARS: Final = 1024
"""Base64 of an RSA key of 4096 bits has 684."""
MAX_TIMESTAMP_CHARS: Final = 40
_HOST: Final = r"https://sns\.[a-z]{2}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}\.amazonaws\.com(?:\.cn)?"
# Anybody can publish a certificate below amazonaws.com, in a bucket, but only SNS with this host and path.
_CERTIFICATE: Final = re.compile(_HOST + r"/SimpleNotificationService-[A-Za-z0-9]{1,64}\.pem")
_CONFIRMATION: Final = re.compile(_HOST + r"/\?[A-Za-z0-9=&%._~:-]{1,2000}")

_SIGNED: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_SIGNED_TO_CONFIRM: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
SIGNED_FIELDS: Final = {
    NOTIFICATION: _SIGNED,
    SUBSCRIPTION: _SIGNED_TO_CONFIRM,
    UNSUBSCRIPTION: _SIGNED_TO_CONFIRM,
}
HASHES: Final = {"1": SHA1, "2": SHA256}


class SnsEnvelope(msgspec.Struct, frozen=True, rename="pascal"):
    """The JSON object in which SNS sends a message."""

    type: str
    message_id: str
    topic_arn: str
    message: str
    timestamp: str
    signature_version: str = ""
    signature: str = ""
    signing_cert: str = msgspec.field(name="SigningCertURL", default="")
    subject: str | None = None
    token: str | None = None
    subscribe: str | None = msgspec.field(name="SubscribeURL", default=None)

    def signed(self) -> bytes:
        """Return the bytes that SNS signs: each field's name and value, each on a line, without absent fields."""
        values = msgspec.to_builtins(self)
        lines = [
            f"{name}\n{values[name]}\n" for name in SIGNED_FIELDS.get(self.type, ()) if values.get(name) is not None
        ]
        return "".join(lines).encode()


_DECODER: Final = msgspec.json.Decoder(SnsEnvelope)


def open_envelope(body: bytes) -> SnsEnvelope:
    """Return the envelope. Raise Unrecognised."""
    if len(body) > MAX_ENVELOPE_BYTES:
        raise Unrecognised(f"over {MAX_ENVELOPE_BYTES} bytes, more than SNS delivers")
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unrecognised(
            "no SNS envelope; with raw message delivery SNS signs nothing: turn it off for this subscription"
        ) from None


def verify_signed(incoming: WebhookRequest, topics: Sequence[str], now_ms: int, max_age_s: int) -> None:
    """Raise InvalidSignatureError unless SNS signed the request at most ``max_age_s`` ago for one of ``topics``."""
    envelope = _checked_envelope(incoming, topics, now_ms, max_age_s)
    key = _public_key(incoming.certificate, now_ms // 86_400_000)
    try:
        signature = signatures.from_base64(envelope.signature)
        key.verify(signature, envelope.signed(), padding.PKCS1v15(), HASHES[envelope.signature_version]())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise InvalidSignatureError("the SNS message's signature is not Amazon's") from None


def certificate_url(incoming: WebhookRequest, topics: Sequence[str], now_ms: int, max_age_s: int) -> str:
    """Return the URL of the signer's certificate. Raise InvalidSignatureError for a URL that is not Amazon's.

    Also raise it for a message that will be refused in any case, so that no certificate is fetched for it.
    """
    return _checked_envelope(incoming, topics, now_ms, max_age_s).signing_cert


def _checked_envelope(incoming: WebhookRequest, topics: Sequence[str], now_ms: int, max_age_s: int) -> SnsEnvelope:
    """Return the envelope after all checks but that of the signature. Raise InvalidSignatureError.

    The topic must be checked too: SNS signs any text for anybody who has an AWS account and a topic.
    """
    envelope = _decode_envelope(incoming)
    if envelope.topic_arn not in topics:
        raise InvalidSignatureError("an SNS topic that is not among the provider's keys")
    if envelope.type not in SIGNED_FIELDS or envelope.signature_version not in HASHES:
        raise InvalidSignatureError("an SNS message of an unknown type or signature version")
    _require_match(_CERTIFICATE, envelope.signing_cert, "certificate")
    if len(envelope.signature) > MAX_SIGNATURE_CHARS or len(envelope.timestamp) > MAX_TIMESTAMP_CHARS:
        raise InvalidSignatureError("the SNS message's signature or time is longer than Amazon's")
    try:
        sent_ms = timestamps.from_iso(envelope.timestamp)
    except Unrecognised as error:
        raise InvalidSignatureError(str(error)) from None
    signatures.verify_fresh(str(sent_ms // 1000), now_ms, max_age_s)
    return envelope


def confirmation_url(incoming: WebhookRequest) -> str | None:
    """Return the URL that confirms a subscription; None if the message is not about a new subscription.

    An unsubscription also contains a URL, but a request to that would subscribe again. Raise InvalidSignatureError for
    a URL that is not Amazon's, and for one of another action or topic.
    """
    envelope = _decode_envelope(incoming)
    if envelope.type != SUBSCRIPTION:
        return None
    url = _require_match(_CONFIRMATION, envelope.subscribe or "", "confirmation")
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    if query.get("Action") != ["ConfirmSubscription"] or query.get("TopicArn") != [envelope.topic_arn]:
        raise InvalidSignatureError("a confirmation address for something else")
    return url


def _decode_envelope(incoming: WebhookRequest) -> SnsEnvelope:
    try:
        return open_envelope(incoming.body)
    except Unrecognised as error:
        raise InvalidSignatureError(str(error)) from None


def _require_match(pattern: re.Pattern[str], url: str, purpose: str) -> str:
    if not pattern.fullmatch(url):
        raise InvalidSignatureError(f"the SNS message's {purpose} does not lie with SNS")
    return url


@functools.lru_cache(maxsize=64)
def _public_key(pem: bytes, day: int) -> rsa.RSAPublicKey:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidSignatureError("the SNS certificate is not to be had, or none") from None
    from_day = int(certificate.not_valid_before_utc.timestamp()) // 86_400
    to_day = int(certificate.not_valid_after_utc.timestamp()) // 86_400
    if not from_day <= day <= to_day:
        raise InvalidSignatureError("the SNS certificate is not valid today")
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidSignatureError("the SNS certificate's key is not RSA")
    return key
