"""Amazon SES over SNS: accepted signatures and topics, and the events of a notification's recipients."""

import datetime as dt
import json
from typing import Any

import botocore.session
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks import sns
from pipeline.webhooks.base import UNCORRELATED, WebhookRequest
from pipeline.webhooks.providers import ses
from pipeline.webhooks.providers.registry import SUBSCRIPTION_ADAPTERS
from tests.support.golden import Case, cases, context, events_of_case
from tests.support.golden import sns as enveloped
from tests.support.sns import HOST, TOPIC, Amazon, certificate
from topics.events import BounceClass, EventKind

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Amazon:
    return Amazon(tmp_path_factory.mktemp("sns"))


def now_ms() -> int:
    return int(dt.datetime.now(dt.UTC).timestamp() * 1000)


def verify(body: bytes, pem: bytes, *topics: str, now: int = 0, max_age_s: int = 300) -> None:
    ses.verify(WebhookRequest(headers={}, body=body, certificate=pem), topics or (TOPIC,), now or now_ms(), max_age_s)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("kind", ["Notification", "SubscriptionConfirmation"])
@pytest.mark.parametrize("subject", [{}, {"Subject": "Amazon SES Email Event Notification"}])
def test_message_signed_by_sns_is_verified(amazon: Amazon, version: str, kind: str, subject: dict[str, str]) -> None:
    verify(amazon.message(kind, version, **subject), amazon.pem)


def test_message_with_line_breaks_and_unicode_is_verified(amazon: Amazon) -> None:
    verify(amazon.message(Message="Zeile 1\nZeile 2 – ünïcode \U0001f4ec"), amazon.pem)


@pytest.mark.parametrize("field", ["Message", "MessageId", "Subject", "Timestamp", "Type"])
def test_changed_field_is_refused(amazon: Amazon, field: str) -> None:
    touched = json.loads(amazon.message(Subject="hello"))
    touched[field] = {"Type": "UnsubscribeConfirmation", "Timestamp": dt.datetime.now(dt.UTC).isoformat()}.get(
        field, "x"
    )
    with pytest.raises(InvalidSignatureError, match="signature"):
        verify(json.dumps(touched).encode(), amazon.pem)


@pytest.mark.parametrize("field", ["SubscribeURL", "Token"])
def test_changed_confirmation_is_refused(amazon: Amazon, field: str) -> None:
    touched = json.loads(amazon.message("SubscriptionConfirmation")) | {field: "https://example.com/"}
    with pytest.raises(InvalidSignatureError, match="signature"):
        verify(json.dumps(touched).encode(), amazon.pem)


def test_signature_of_another_version_is_refused(amazon: Amazon) -> None:
    touched = json.loads(amazon.message(version="1")) | {"SignatureVersion": "2"}
    with pytest.raises(InvalidSignatureError, match="signature"):
        verify(json.dumps(touched).encode(), amazon.pem)


@pytest.mark.parametrize("changed", [{"SignatureVersion": "3"}, {"SignatureVersion": ""}, {"Type": "Other"}])
def test_unknown_version_or_type_is_refused(amazon: Amazon, changed: dict[str, str]) -> None:
    with pytest.raises(InvalidSignatureError, match="unknown"):
        verify(json.dumps(json.loads(amazon.message()) | changed).encode(), amazon.pem)


def test_message_for_another_topic_is_refused(amazon: Amazon) -> None:
    theirs = amazon.message(TopicArn="arn:aws:sns:eu-west-1:999999999999:mail")
    with pytest.raises(InvalidSignatureError, match="topic"):
        verify(theirs, amazon.pem)
    verify(theirs, amazon.pem, "arn:aws:sns:eu-west-1:999999999999:mail", TOPIC)
    verify(amazon.message(), amazon.pem, "arn:aws:sns:eu-west-1:999999999999:mail", TOPIC)


def test_signature_expires(amazon: Amazon) -> None:
    body = amazon.message()
    verify(body, amazon.pem, now=now_ms() + HOUR_MS - 2_000, max_age_s=ses.HORIZON_S)
    for now in (now_ms() + HOUR_MS + 2_000, now_ms() - 302_000):
        with pytest.raises(InvalidSignatureError, match="stale"):
            verify(body, amazon.pem, now=now, max_age_s=ses.HORIZON_S)


def test_malformed_signed_time_is_refused(amazon: Amazon) -> None:
    with pytest.raises(InvalidSignatureError, match="time"):
        verify(amazon.message(Timestamp="soon"), amazon.pem)


@pytest.mark.parametrize(
    "url",
    [
        "https://sns.eu-west-1.amazonaws.com.example.com/SimpleNotificationService-0.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/SimpleNotificationService-0.pem",
        "https://me@sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://bucket.s3.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.s3.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
        "http://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.eu-west-1.amazonaws.com/?Action=x#/SimpleNotificationService-0.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem\n",
        "https://sns.eu-west-1.amazonaws.com/../SimpleNotificationService-0.pem",
        "https://example.com/https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0.pem",
        "file:///etc/passwd",
        f"https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-{'a' * 65}.pem",
        "https://sns.evil.amazonaws.com/SimpleNotificationService-0.pem",
        "https://sns.eu-west-1.amazonaws.com.cn.evil.example/SimpleNotificationService-0.pem",
        "",
    ],
)
def test_certificate_url_of_another_host_is_refused(amazon: Amazon, url: str) -> None:
    body = amazon.message(SigningCertURL=url)
    with pytest.raises(InvalidSignatureError, match="certificate"):
        ses.certificate_url(WebhookRequest(headers={}, body=body), [TOPIC], now_ms(), 3600)
    with pytest.raises(InvalidSignatureError, match="certificate"):
        verify(body, amazon.pem)


@pytest.mark.parametrize("host", [HOST, "sns.us-gov-west-1.amazonaws.com", "sns.cn-north-1.amazonaws.com.cn"])
def test_certificate_url_of_sns_is_returned(amazon: Amazon, host: str) -> None:
    url = f"https://{host}/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
    body = amazon.message(SigningCertURL=url)
    assert ses.certificate_url(WebhookRequest(headers={}, body=body), [TOPIC], now_ms(), 3600) == url
    verify(body, amazon.pem)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"TopicArn": "arn:aws:sns:eu-west-1:666:evil"}, "topic"),
        ({"Timestamp": "2020-01-01T00:00:00.000Z"}, "stale"),
        ({"Timestamp": "2020-01-01T00:00:00.000Z" + "0" * 100_000}, "stale|time"),
        ({"SignatureVersion": "9"}, "version"),
        ({"Type": "Other"}, "type"),
        ({"Signature": "A" * 2_000}, "signature"),
        ({"Message": "m" * 1_000_000}, "over 1000000 bytes"),
    ],
)
def test_certificate_url_is_not_returned_for_refused_messages(
    amazon: Amazon, changed: dict[str, str], why: str
) -> None:
    body = json.dumps(json.loads(amazon.message()) | changed).encode()
    with pytest.raises(InvalidSignatureError, match=why):
        ses.certificate_url(WebhookRequest(headers={}, body=body), [TOPIC], now_ms(), 3600)


def test_missing_or_foreign_certificate_is_refused(amazon: Amazon) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for pem, why in (
        (b"", "certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate"),
        (certificate(other, "sns.amazonaws.com"), "signature"),
        (certificate(ec.generate_private_key(ec.SECP256R1()), "sns.amazonaws.com"), "RSA"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidSignatureError, match=why):
            verify(amazon.message(), pem)


def test_expired_certificate_is_refused(amazon: Amazon) -> None:
    body = amazon.message()
    with pytest.raises(InvalidSignatureError, match="valid today"):
        verify(body, amazon.pem, now=now_ms() + 72 * HOUR_MS, max_age_s=100 * 3600)


def test_only_a_subscription_is_confirmed(amazon: Amazon) -> None:
    asks = WebhookRequest(headers={}, body=amazon.message("SubscriptionConfirmation"))
    url = ses.confirmation_url(asks)
    assert url is not None
    assert url.startswith(f"https://{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=")
    assert SUBSCRIPTION_ADAPTERS["ses"] is ses
    farewell = json.loads(asks.body) | {"Type": "UnsubscribeConfirmation"}
    for body in (amazon.message(), json.dumps(farewell).encode()):
        assert ses.confirmation_url(WebhookRequest(headers={}, body=body)) is None


@pytest.mark.parametrize(
    "url",
    [
        f"https://{HOST}/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:eu-west-1:999999999999:mail&Token=1",
        f"https://{HOST}/?Action=DeleteTopic&TopicArn={TOPIC}",
        f"https://{HOST}/?Action=ConfirmSubscription&Action=DeleteTopic&TopicArn={TOPIC}",
        f"https://{HOST}.example.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=1",
        f"http://{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=1",
        f"https://{HOST}/other?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=1",
    ],
)
def test_confirmation_url_of_another_host_or_action_is_refused(amazon: Amazon, url: str) -> None:
    body = amazon.message("SubscriptionConfirmation", SubscribeURL=url)
    with pytest.raises(InvalidSignatureError, match="confirmation"):
        ses.confirmation_url(WebhookRequest(headers={}, body=body))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"Type":1}', b"[" * 100_000, b'{"eventType":"Open"}'])
def test_request_without_an_envelope_is_refused(body: bytes) -> None:
    incoming = WebhookRequest(headers={}, body=body)
    with pytest.raises(InvalidSignatureError, match="raw message delivery"):
        ses.confirmation_url(incoming)
    with pytest.raises(InvalidSignatureError, match="raw message delivery"):
        ses.certificate_url(incoming, [TOPIC], now_ms(), 3600)
    with pytest.raises(InvalidSignatureError, match="raw message delivery"):
        verify(body, b"")
    with pytest.raises(Unrecognised, match="raw message delivery"):
        ses.split(body, {})


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_subscription_message_is_not_an_event(kind: str) -> None:
    assert ses.split(json.dumps(enveloped("You have chosen …", Type=kind)).encode(), {}) == []


@pytest.mark.parametrize(
    "message",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        '{"notificationType":"AmazonSnsSubscriptionSucceeded","message":"You have successfully subscribed …"}',
    ],
)
def test_connection_notice_is_not_an_event(message: str) -> None:
    assert ses.split(json.dumps(enveloped(message)).encode(), {}) == []


@pytest.mark.parametrize("message", ["", "hello", "[]", "null", '{"eventType":'])
def test_malformed_notification_is_unrecognised(message: str) -> None:
    with pytest.raises(Unrecognised):
        ses.split(json.dumps(enveloped(message)).encode(), {})


@pytest.mark.parametrize(
    "event", ["{}", '{"mail":{}}', '{"eventType":"Open"}', '{"eventType":"Open","mail":{"timestamp":"x"}}']
)
def test_a_notification_without_a_name_is_unrecognised_and_one_without_a_time_is_sns(event: str) -> None:
    (part,) = ses.split(json.dumps(enveloped(event)).encode(), {})
    if "eventType" in event:
        assert ses.normalize(part, context("ses")).occurred_at == 1335920046655
    else:
        with pytest.raises(Unrecognised, match="eventType"):
            ses.normalize(part, context("ses"))


def test_every_recipient_gets_an_event() -> None:
    failed, delayed = events_of_case(ses, Case("ses", "bounce_of_several"))
    assert (failed.kind, delayed.kind) == (EventKind.BOUNCED, EventKind.DEFERRED)
    assert failed.event_id.removesuffix(":0") == delayed.event_id.removesuffix(":1")
    assert json.loads(bytes(failed.native))["recipient"]["diagnosticCode"] == "smtp; 550 user unknown"
    assert "diagnosticCode" not in bytes(delayed.native).decode()


def test_time_is_linear_in_the_number_of_recipients() -> None:
    payload = json.loads(Case("ses", "bounce").payload)
    payload["bounce"]["bouncedRecipients"] = [{"emailAddress": f"r{n}@example.com"} for n in range(1000)]
    parts = ses.split(json.dumps(enveloped(json.dumps(payload))).encode(), {})
    assert len(parts) == 1000
    assert max(map(len, parts)) < 3_000


def test_event_id_does_not_depend_on_the_time_format() -> None:
    payload = json.loads(Case("ses", "send").payload)
    payload["mail"]["timestamp"] = "2018-10-08T14:05:45 +0000"
    (event,) = events_of_case(ses, Case("ses", "send"), json.dumps(enveloped(json.dumps(payload))).encode())
    assert event.occurred_at == 1539007545000


def test_event_without_a_message_id_of_sns_gets_one_from_its_fields() -> None:
    payload = json.dumps(enveloped(Case("ses", "open").payload.decode(), MessageId="")).encode()
    (event,) = events_of_case(ses, Case("ses", "open"), payload)
    assert event.event_id.startswith("ses:")
    assert [event] == events_of_case(ses, Case("ses", "open"), payload)


def test_foreign_tag_does_not_name_an_email() -> None:
    payload = json.loads(Case("ses", "open").payload)
    for tag in ([], ["theirs"], "theirs", {"x": 1}, [None, 7]):
        payload["mail"]["tags"]["mailfold_email_id"] = tag
        (event,) = events_of_case(ses, Case("ses", "open"), json.dumps(enveloped(json.dumps(payload))).encode())
        assert event.email_id == UNCORRELATED
        assert event.provider_message_id == "EXAMPLE7c191be45-e9aedb9a-02f9-4d12-a87d-dd0099a07f8a-000000"


def test_every_row_of_the_tables_has_a_golden_payload() -> None:
    payload = [json.loads(case.payload) for case in cases("ses")]
    assert {one.get("eventType") or one.get("notificationType") for one in payload} >= set(ses.KINDS)
    assert _subtypes(payload) >= set(ses.SUBTYPES)


def _subtypes(payloads: list[dict[str, Any]]) -> set[tuple[str, str]]:
    bounces = {(one["bounce"]["bounceType"], one["bounce"]["bounceSubType"]) for one in payloads if "bounce" in one}
    complaints = [one["complaint"] for one in payloads if "complaint" in one]
    return bounces | {
        pair
        for one in complaints
        for pair in ((one.get("complaintFeedbackType", ""), ""), ("", one.get("complaintSubType") or ""))
    }


@pytest.mark.parametrize(
    ("main", "sub", "bounce_class"),
    [
        ("Permanent", "Teleported", BounceClass.HARD),
        ("Transient", "Teleported", BounceClass.SOFT),
        ("", "", BounceClass.SOFT),
    ],
)
def test_bounce_of_an_unknown_subtype_is_classified_by_type(main: str, sub: str, bounce_class: BounceClass) -> None:
    payload = json.loads(Case("ses", "bounce").payload)
    payload["bounce"] |= {"bounceType": main, "bounceSubType": sub}
    # Without the server's own words: where they are plain, they decide.
    payload["bounce"]["bouncedRecipients"] = [{"emailAddress": "jane@example.com", "status": "5.0.0"}]
    (event,) = events_of_case(ses, Case("ses", "bounce"), json.dumps(enveloped(json.dumps(payload))).encode())
    assert (event.kind, event.bounce_class) == (EventKind.BOUNCED, bounce_class)


def test_signed_fields_are_those_of_the_documentation() -> None:
    signed = msgspec.json.decode(json.dumps(enveloped("m", Token="t", SubscribeURL="u")), type=sns.SnsEnvelope).signed()
    assert signed == (
        b"Message\nm\nMessageId\n22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324\nSubject\nMy First Message\n"
        b"Timestamp\n2012-05-02T00:54:06.655Z\nTopicArn\narn:aws:sns:us-west-2:123456789012:MyTopic\nType\nNotification\n"
    )


def test_all_event_types_of_amazons_model_are_mapped() -> None:
    model = botocore.session.Session().get_service_model("sesv2")
    spelled = {"DELIVERY_DELAY": "DeliveryDelay", "RENDERING_FAILURE": "Rendering Failure"}
    events = {spelled.get(name, name.capitalize()) for name in model.shape_for("EventType").enum}
    assert events == set(ses.KINDS)
    bounces = {main.upper() for main, sub in ses.SUBTYPES if main and sub}
    assert bounces == set(model.shape_for("BounceType").enum)
