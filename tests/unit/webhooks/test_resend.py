"""Resend's webhooks: Svix' own example of a signature, several signatures at once, and which event is which."""

import json

import pytest

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.providers import resend
from tests.support.golden import Case, context

# Published with Svix' libraries to test signing: https://github.com/svix/svix-webhooks
THEIR_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
THEIR_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
THEIR_BODY = b'{"test": 2432232314}'
THEIR_HEADERS = {
    "svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "svix-timestamp": "1614265330",
    "svix-signature": THEIR_SIGNATURE,
}
THEN = 1614265330_000
WRONG = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="


def verify(key: str = THEIR_KEY, **changed: str) -> None:
    headers = THEIR_HEADERS | {f"svix-{name}": value for name, value in changed.items()}
    resend.verify(WebhookRequest(headers=headers, body=THEIR_BODY), [key], THEN, 300)


def test_request_signed_by_svix_is_verified() -> None:
    verify()
    verify(key=THEIR_KEY.removeprefix("whsec_"))


def test_header_names_of_standard_webhooks_are_accepted() -> None:
    headers = {name.replace("svix", "webhook"): value for name, value in THEIR_HEADERS.items()}
    resend.verify(WebhookRequest(headers=headers, body=THEIR_BODY), [THEIR_KEY], THEN, 300)


@pytest.mark.parametrize(
    "signature", [f"{WRONG} {THEIR_SIGNATURE}", f"{THEIR_SIGNATURE} {WRONG}", f"v1a,AAAA v2,!! {THEIR_SIGNATURE}"]
)
def test_one_valid_signature_of_several_is_enough(signature: str) -> None:
    verify(signature=signature)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "msg_p5jXN8AQM9LWM0D4loKWxJel"},
        {"timestamp": "1614265331"},
        {"signature": WRONG},
        {"signature": THEIR_SIGNATURE.replace("v1,", "v2,")},
        {"signature": THEIR_SIGNATURE.removeprefix("v1,")},
        {"signature": f"{WRONG} v1,"},
        {"signature": "v1,"},
    ],
    ids=json.dumps,
)
def test_changed_request_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(THEIR_KEY, **changed)


def test_repeated_event_has_the_same_id() -> None:
    event = Case("resend", "delivered").payload
    named = EventContext(provider="resend", received_at=1, headers={"svix-id": "msg_1"})
    assert resend.normalize(event, named).event_id == "resend:msg_1"
    standard = EventContext(provider="resend", received_at=2, headers={"webhook-id": "msg_1"})
    assert resend.normalize(event, standard).event_id == "resend:msg_1"


def test_event_without_an_id_gets_one_from_its_fields() -> None:
    nameless = EventContext(provider="resend", received_at=1)
    names = ("delivered", "opened", "clicked", "suppression_added", "suppression_removed")
    event_ids = [resend.normalize(Case("resend", name).payload, nameless).event_id for name in names]
    assert len(set(event_ids)) == len(names)
    assert event_ids == [resend.normalize(Case("resend", name).payload, nameless).event_id for name in names]


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b'{"type":"\\ud800"}', b'{"a":' * 5_000])
def test_a_body_that_is_no_object_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        resend.split(body, {})


@pytest.mark.parametrize(
    "event", [b"{}", b'{"type":"email.sent"}', b'{"type":"email.sent","created_at":"soon"}', b'{"created_at":1}']
)
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        resend.normalize(event, context("resend"))
