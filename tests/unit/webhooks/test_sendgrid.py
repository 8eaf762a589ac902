"""SendGrid's webhooks: real signatures, documented payloads, and no address in an event."""

import base64
import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidSignatureError, NotFound, Unrecognised
from pipeline.webhooks.base import UNCORRELATED, EventContext, TokenReaders, WebhookRequest
from pipeline.webhooks.providers import sendgrid
from pipeline.webhooks.providers.registry import ADAPTERS, adapter_for
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId

GOLDEN = Path(__file__).parents[2] / "golden" / "sendgrid"
CASES = sorted(path.name.removesuffix(".expected.json") for path in GOLDEN.glob("*.expected.json"))
EMAIL_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")

# Published with SendGrid's own libraries to test verification: signed by SendGrid, not by us.
THEIR_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpV"
    "KS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
)
THEIR_HEADERS = {
    "x-twilio-email-event-webhook-SIGNATURE": (
        "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
    ),
    "X-Twilio-Email-Event-Webhook-Timestamp": "1600112502",
}
THEIR_BODY = (
    b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address",'
    b'"sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
    b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",'
    b'"smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>","timestamp":1600112492}]\r\n'
)
THEN = 1600112502_000


def ours(message_id: str) -> EmailId | None:
    return EMAIL_ID if message_id == "<ours@mail.example>" else None


def normalize(event: bytes) -> DeliveryEvent:
    readers = TokenReaders(message_id=ours, is_echo_tag=lambda _email_id, _tag: True)
    context = EventContext(provider="sendgrid", received_at=1513299570123, token_readers=readers)
    return sendgrid.normalize(event, context)


def verify(key: str, headers: dict[str, str], body: bytes, now: int, max_age_s: int) -> None:
    lower = {name.lower(): value for name, value in headers.items()}
    sendgrid.verify(WebhookRequest(headers=lower, body=body), [key], now, max_age_s)


def signed(body: bytes, timestamp: str) -> tuple[str, dict[str, str]]:
    key = ec.generate_private_key(ec.SECP256R1())
    public = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    signature = base64.b64encode(key.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    return public, {sendgrid.SIGNATURE_HEADER: signature, sendgrid.TIMESTAMP_HEADER: timestamp}


def test_request_signed_by_sendgrid_is_verified() -> None:
    verify(THEIR_KEY, THEIR_HEADERS, THEIR_BODY, THEN, 60)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (THEIR_BODY.strip(), THEIR_HEADERS),
        (THEIR_BODY, THEIR_HEADERS | {"X-Twilio-Email-Event-Webhook-Timestamp": "1600112503"}),
        (THEIR_BODY, {"X-Twilio-Email-Event-Webhook-Timestamp": "1600112502"}),
        (THEIR_BODY, THEIR_HEADERS | {"x-twilio-email-event-webhook-SIGNATURE": "not base64!"}),
        (THEIR_BODY, THEIR_HEADERS | {"x-twilio-email-event-webhook-SIGNATURE": "bm90IGEgc2lnbmF0dXJl"}),
    ],
    ids=["two bytes less", "another time", "no signature", "signature not base64", "signature not DER"],
)
def test_changed_request_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(THEIR_KEY, headers, body, THEN, 60)


@pytest.mark.parametrize("key", ["", "not base64!", base64.b64encode(b"no DER").decode()])
def test_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidSignatureError, match="key"):
        verify(key, THEIR_HEADERS, THEIR_BODY, THEN, 60)


def test_key_of_another_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    text = base64.b64encode(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    with pytest.raises(InvalidSignatureError, match="P-256"):
        verify(text, THEIR_HEADERS, THEIR_BODY, THEN, 60)


@pytest.mark.parametrize(("now", "fresh"), [(60_000, True), (61_000, False), (-300_000, True), (-301_000, False)])
def test_signature_expires(now: int, fresh: bool) -> None:
    if fresh:
        verify(THEIR_KEY, THEIR_HEADERS, THEIR_BODY, THEN + now, 60)
    else:
        with pytest.raises(InvalidSignatureError, match="stale"):
            verify(THEIR_KEY, THEIR_HEADERS, THEIR_BODY, THEN + now, 60)


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1e9", "٣", "9" * 400])
def test_malformed_signed_time_is_refused(timestamp: str) -> None:
    key, headers = signed(b"[]", timestamp)
    with pytest.raises(InvalidSignatureError):
        verify(key, headers, b"[]", THEN, 60)


def test_a_request_is_split_into_its_events() -> None:
    (event,) = sendgrid.split(THEIR_BODY, {})
    assert json.loads(event)["reason"] == "Bounced Address"
    assert sendgrid.split(b"[]", {}) == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[1", b"\xff", b"null", b"[" * 100_000])
def test_a_body_that_is_no_array_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        sendgrid.split(body, {})


@pytest.mark.parametrize("case", CASES)
def test_a_documented_payload_becomes_the_expected_event(case: str) -> None:
    event = normalize((GOLDEN / f"{case}.json").read_bytes())
    assert json.loads(msgspec.json.encode(event)) == json.loads((GOLDEN / f"{case}.expected.json").read_text())


def test_every_documented_event_has_a_golden_payload() -> None:
    seen = {json.loads((GOLDEN / f"{case}.json").read_text())["event"] for case in CASES}
    assert seen >= set(sendgrid.KINDS) | {"group_resubscribe"}


@pytest.mark.parametrize("case", CASES)
def test_events_contain_no_address_and_no_ip(case: str) -> None:
    native = json.loads((GOLDEN / f"{case}.json").read_text())
    text = msgspec.json.encode(normalize(json.dumps(native).encode())).decode().lower()
    assert "example@test.com" not in text
    assert "example%40test.com" not in text
    assert native.get("ip", "no ip") not in text


def test_event_without_an_email_id_is_uncorrelated() -> None:
    account = (
        b'{"event":"account_status_change","sg_event_id":"MjE","timestamp":1709142428,"type":"compliance_suspend"}'
    )
    for event in (account, account[:-1] + b',"smtp-id":"<theirs@x>"}', account[:-1] + b',"mailfold_email_id":"7"}'):
        assert normalize(event).email_id == UNCORRELATED


@pytest.mark.parametrize(
    "event",
    [
        b"1",
        b"{}",
        b'{"event":null}',
        b'{"event":"open","mailfold_email_id":"%s"}' % EMAIL_ID.encode(),
        b'{"event":"open","timestamp":1e300,"mailfold_email_id":"%s"}' % EMAIL_ID.encode(),
        b'{"event":"open","timestamp":"NaN","mailfold_email_id":"%s"}' % EMAIL_ID.encode(),
        b'{"event":"\\ud800"}',
        b'{"event":"open","x":tru}',
        b"\xff",
    ],
)
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        normalize(event)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.text())
def test_a_field_of_an_unexpected_type_never_breaks_the_event(value: object, address: str) -> None:
    fields = ("reason", "status", "type", "url", "useragent", "sg_event_id", "sg_machine_open", "bounce_classification")
    for name in fields:
        native = {"event": "bounce", "timestamp": 1, "mailfold_email_id": EMAIL_ID, "email": address, name: value}
        event = normalize(json.dumps(native).encode("utf-8", "replace"))
        assert msgspec.json.decode(msgspec.json.encode(event), type=DeliveryEvent).kind is EventKind.BOUNCED


def test_every_kind_of_provider_that_sends_webhooks_has_an_adapter() -> None:
    theirs = {"ses", "mailgun", "postmark", "sparkpost", "mailjet", "brevo", "resend", "mandrill"}
    assert set(ADAPTERS) == theirs | {"sendgrid", "sandbox", "mailersend", "mailtrap", "postal", "mail"}
    assert adapter_for("sandbox") is adapter_for("sendgrid")
    with pytest.raises(NotFound, match="'smtp'"):
        adapter_for("smtp")
