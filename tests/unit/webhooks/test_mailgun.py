"""Mailgun: the signature covers a token and not the event, and failures are hard or soft."""

import hashlib
import hmac
import json

import pytest

from pipeline.errors import InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import UNCORRELATED, WebhookRequest
from pipeline.webhooks.providers import mailgun
from pipeline.webhooks.providers.registry import ONE_TIME_TOKEN_ADAPTERS
from tests.support.golden import EMAIL_ID, Case, cases, context, events_of_case
from topics.events import BounceClass, DeliveryEvent, EventKind

KEY = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0"
THEN = 1529006854
TOKEN = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"


def signed(event: object = None, key: str = KEY, timestamp: str = str(THEN), token: str = TOKEN, **other: str) -> bytes:
    code = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    signature = {"timestamp": timestamp, "token": token, "signature": code} | other
    return json.dumps({"signature": signature, "event-data": event or {"event": "opened"}}).encode()


def verify(body: bytes, *keys: str, now_s: int = THEN, max_age_s: int = 60) -> None:
    mailgun.verify(WebhookRequest(headers={}, body=body), keys or (KEY,), now_s * 1000, max_age_s)


def event_of_case(case: str, **changed: object) -> DeliveryEvent:
    payload = json.loads(Case("mailgun", case).payload) | changed
    (event,) = events_of_case(mailgun, Case("mailgun", case), signed(payload))
    return event


def test_signature_with_the_signing_key_is_verified() -> None:
    verify(signed())
    verify(signed(), "an older key", KEY)


@pytest.mark.parametrize(
    "body",
    [
        signed(key="another"),
        signed(timestamp=str(THEN)).replace(b'"1529006854"', b'"1529006855"'),
        signed().replace(TOKEN.encode(), TOKEN[::-1].encode()),
        signed(signature=""),
        signed(signature="not hexadecimal"),
        signed(token=""),
        b'{"event-data":{"event":"opened"}}',
        b'{"signature":"x","event-data":{"event":"opened"}}',
        b"event=opened&timestamp=1529006854&token=x&signature=y",
        b"",
        b"[" * 100_000,
    ],
    ids=["key", "time", "token", "none", "no-hex", "empty-token", "unsigned", "no-object", "form", "nothing", "deep"],
)
def test_changed_or_malformed_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(body)


def test_request_is_refused_without_a_key() -> None:
    with pytest.raises(InvalidSignatureError):
        mailgun.verify(WebhookRequest(headers={}, body=signed()), (), THEN * 1000, 60)


def test_a_signature_is_fresh_for_as_long_as_mailgun_tries() -> None:
    tries = (10 + 10 + 15 + 30 + 60 + 120 + 240) * 60
    verify(signed(), now_s=THEN + tries, max_age_s=mailgun.HORIZON_S)
    for now_s in (THEN + mailgun.HORIZON_S + 1, THEN - 301):
        with pytest.raises(InvalidSignatureError, match="stale"):
            verify(signed(), now_s=now_s, max_age_s=mailgun.HORIZON_S)


@pytest.mark.parametrize("timestamp", ["soon", "-1", "1e9", "٣", "", "9" * 400])
def test_malformed_signed_time_is_refused(timestamp: str) -> None:
    with pytest.raises(InvalidSignatureError):
        verify(signed(timestamp=timestamp))


def test_token_digest_depends_on_the_body() -> None:
    once = mailgun.token(WebhookRequest(headers={}, body=signed()))
    assert ONE_TIME_TOKEN_ADAPTERS["mailgun"] is mailgun
    assert once == mailgun.token(WebhookRequest(headers={}, body=signed()))
    assert once[0] == TOKEN
    token, digest = mailgun.token(WebhookRequest(headers={}, body=signed({"event": "clicked"})))
    assert token == TOKEN
    assert digest != once[1]


def test_retry_with_a_new_signature_has_the_same_event_id() -> None:
    payload = json.loads(Case("mailgun", "delivered").payload)
    once, again = (
        events_of_case(mailgun, Case("mailgun", "delivered"), signed(payload, timestamp=str(THEN + n), token=f"{n}"))
        for n in (0, 1)
    )
    assert once == again


def test_id_reused_on_another_day_is_another_event() -> None:
    assert event_of_case("delivered").event_id != event_of_case("delivered", timestamp=1529992199.626182).event_id


def test_event_without_an_id_gets_one_from_its_fields() -> None:
    assert event_of_case("clicked", id=None).event_id == event_of_case("clicked", id=None).event_id
    assert (
        event_of_case("clicked", id=None).event_id
        != event_of_case("clicked", id=None, url="https://example.com").event_id
    )


def test_email_is_found_by_message_id_or_stays_uncorrelated() -> None:
    assert event_of_case("by_message_id").email_id == EMAIL_ID
    theirs = event_of_case("delivered", **{"user-variables": {}})
    assert theirs.email_id == UNCORRELATED
    assert theirs.provider_message_id == "20180622182958.1.48906CB188F1A454@exmple.org"


@pytest.mark.parametrize(("reason", "expected"), mailgun.REASONS.items())
def test_reason_counts_for_permanent_failures_only(reason: str, expected: tuple[EventKind, object]) -> None:
    for_good, for_now = (
        event_of_case("failed_permanent", reason=reason, severity=how) for how in ("permanent", "temporary")
    )
    assert for_good.kind is expected[0]
    assert (for_now.kind, for_now.bounce_class) == (EventKind.DEFERRED, None)


@pytest.mark.parametrize(("kind", "machine"), [("opened", "bot"), ("clicked", "bot"), ("delivered", "")])
def test_unknown_kind_of_bot_is_a_machine(kind: str, machine: str) -> None:
    assert event_of_case(kind, **{"client-info": {"bot": "outlook"}}).machine == machine


def test_every_row_of_the_tables_has_a_golden_payload() -> None:
    seen = [json.loads(case.payload) for case in cases("mailgun")]
    assert {one["event"] for one in seen} >= set(mailgun.KINDS)
    assert {one.get("reason") for one in seen} >= set(mailgun.REASONS)
    assert {one.get("client-info", {}).get("bot") for one in seen} >= set(mailgun.MACHINES)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"a=b", b"[" * 100_000])
def test_malformed_body_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        mailgun.split(body, {})


@pytest.mark.parametrize(
    "event", [b"1", b"{}", b'{"event":"opened"}', b'{"event":"opened","timestamp":"x"}', b'{"event":{}}']
)
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        mailgun.normalize(event, context("mailgun"))


@pytest.mark.parametrize(
    ("status", "bounce_class"),
    [
        ({"code": 550, "message": "5.1.1 no such user", "enhanced-code": "5.1.1"}, BounceClass.HARD),
        ({"code": 550, "message": "mailbox unavailable: user unknown"}, BounceClass.HARD),
        ({"code": 550, "message": "smtp; 550 5.1.1 gone", "bounce-code": "5.1.1"}, BounceClass.HARD),
        ({"code": 552, "message": "5.2.2 mailbox full", "enhanced-code": "5.2.2"}, BounceClass.SOFT),
        ({"code": 550, "message": "5.7.1 blocked by policy", "enhanced-code": "5.7.1"}, BounceClass.SOFT),
        ({"code": 498, "message": "No MX for [example.com]"}, BounceClass.SOFT),
        ({"code": 554, "message": "", "bounce-type": "hard"}, BounceClass.HARD),
    ],
)
def test_failure_with_an_unspecific_reason_is_classified_by_codes(
    status: dict[str, object], bounce_class: BounceClass
) -> None:
    event = event_of_case("failed_permanent", reason="generic", **{"delivery-status": status})
    assert (event.kind, event.bounce_class) == (EventKind.BOUNCED, bounce_class)
