"""MailerSend's webhooks: a signature that somebody else published, the greeting, and both versions of an event."""

import json

import msgspec
import pytest

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import WebhookRequest
from pipeline.webhooks.providers import mailersend
from tests.support.golden import Case, context
from tests.support.webhooks import signed, signed_hex

# Published with an Elixir library to test verification; OpenSSL's command says the same.
THEIR_KEY = "whsec_test_123"
THEIR_SIGNATURE = "52f62c6551afbfeb693f261fce07145dc64bc30d9118f4c4403c922984aa76f1"
THEIR_BODY = (
    b'{"type":"activity.delivered","created_at":"2026-05-06T14:12:33.000000Z","data":{"id":"6892766a5b66e2daf3dc9155",'
    b'"domain_id":"yv69oxl5kl785kw2","message_id":"6892766ae78995a317577aa1","email_id":"6892766a8d52ba62543d5e71",'
    b'"type":"delivered","subject":"Receipt #1234","email":"customer@example.com","tags":["receipt","production"],'
    b'"meta":{"order_id":"ord_1234"}}}'
)
# As MailerSend documents it, and signs it: with a secret that it documents, too.
PING = b'{"type":"webhook.test","message":"This is a ping test message","created_at":"2026-03-27T07:24:20.577080Z"}'


def request(body: bytes = THEIR_BODY, signature: str = THEIR_SIGNATURE) -> WebhookRequest:
    return WebhookRequest(headers={"signature": signature}, body=body)


def by(key: str, body: bytes) -> WebhookRequest:
    return request(body, signed_hex(key, body))


def test_published_signature_is_verified() -> None:
    mailersend.verify(request(), [THEIR_KEY], 0, 0)
    mailersend.verify(request(signature=THEIR_SIGNATURE.upper()), [THEIR_KEY], 0, 0)


def test_escaped_slashes_do_not_change_the_event() -> None:
    plain = signed("mailersend", Case("mailersend", "v1_clicked").payload, now_s=0)
    escaped = signed("mailersend", plain.body.replace(b"/", b"\\/"), now_s=0)
    mailersend.verify(request(escaped.body, escaped.headers["Signature"]), [escaped.key], 0, 0)
    events = [mailersend.normalize(body, context("mailersend")) for body in (plain.body, escaped.body)]
    assert msgspec.json.decode(events[0].native) == msgspec.json.decode(events[1].native)
    assert events[0] == msgspec.structs.replace(events[1], native=events[0].native)


def test_only_the_test_of_a_new_webhook_is_a_probe() -> None:
    assert mailersend.is_probe(by(mailersend.TEST_SECRET, PING))
    event = by(mailersend.TEST_SECRET, THEIR_BODY)
    assert not mailersend.is_probe(event)
    with pytest.raises(InvalidSignatureError):
        mailersend.verify(event, [THEIR_KEY], 0, 0)
    for other in (request(PING), by(THEIR_KEY, PING), WebhookRequest(headers={}, body=PING)):
        assert not mailersend.is_probe(other)
    assert not mailersend.is_probe(by(mailersend.TEST_SECRET, b" " * 1_000 + PING))


def test_first_open_reported_twice_is_one_event() -> None:
    names = ("v1_opened", "v1_opened_unique")
    results = [mailersend.normalize(Case("mailersend", name).payload, context("mailersend")) for name in names]
    assert results[0].event_id == results[1].event_id == "mailersend:63fd1c1d31b9c750540fe85c"


def test_id_of_the_email_is_not_used_as_event_id() -> None:
    survey = json.loads(Case("mailersend", "v2_survey_submitted").payload)
    opened = survey | {"type": "activity.survey_opened"}
    results = [
        mailersend.normalize(json.dumps(one).encode(), context("mailersend")).event_id for one in (survey, opened)
    ]
    assert len(set(results)) == 2
    delivered = json.loads(Case("mailersend", "v2_delivered").payload)
    delivered["data"]["id"] = delivered["data"]["email_id"]
    event = mailersend.normalize(json.dumps(delivered).encode(), context("mailersend"))
    assert event.event_id != f"mailersend:{delivered['data']['id']}"


@pytest.mark.parametrize(
    "event", [b"{}", b'{"type":"activity.sent"}', b'{"data":{"created_at":"2025-08-05 22:27:14"}}']
)
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        mailersend.normalize(event, context("mailersend"))
