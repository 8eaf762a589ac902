"""SparkPost: batches with a password or a token, and bounces of which not all are bounces."""

import base64
import json

import pytest

from pipeline.errors import AuthenticationFailed, InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import UNCORRELATED, WebhookRequest
from pipeline.webhooks.providers import sparkpost
from tests.support.golden import Case, cases, context, events_of_case
from topics.events import BounceClass, DeliveryEvent, EventKind

KEYS = ["mailfold:older", "mailfold:secret", "a-token-of-our-oauth-server"]


def request(authorization: str) -> WebhookRequest:
    return WebhookRequest(headers={"authorization": authorization}, body=b"[]")


def basic(user_and_password: str) -> WebhookRequest:
    return request(f"Basic {base64.b64encode(user_and_password.encode()).decode()}")


def event_of_case(case: str, **changed: object) -> DeliveryEvent:
    (wrapped,) = json.loads(Case("sparkpost", case).payload)
    (inner,) = wrapped["msys"].values()
    inner |= changed
    (event,) = events_of_case(sparkpost, Case("sparkpost", case), json.dumps([wrapped]).encode())
    return event


@pytest.mark.parametrize("incoming", [basic(KEYS[0]), basic(KEYS[1]), request(f"Bearer {KEYS[2]}")])
def test_request_with_the_password_or_the_token_is_verified(incoming: WebhookRequest) -> None:
    sparkpost.verify(incoming, KEYS, 0, 60)


@pytest.mark.parametrize(
    "incoming",
    [
        basic("mailfold:wrong"),
        request("Bearer another"),
        request("Bearer "),
        request("Basic !"),
        request(KEYS[2]),
        WebhookRequest(headers={}, body=b""),
    ],
    ids=["password", "token", "no token", "not base64", "no scheme", "no header"],
)
def test_request_without_valid_credentials_is_refused(incoming: WebhookRequest) -> None:
    with pytest.raises(InvalidSignatureError):
        sparkpost.verify(incoming, KEYS, 0, 60)


@pytest.mark.parametrize("incoming", [basic(""), basic(":"), request("Bearer x")])
def test_request_is_refused_without_a_configured_key(incoming: WebhookRequest) -> None:
    with pytest.raises(AuthenticationFailed):
        sparkpost.verify(incoming, [], 0, 60)


def test_batch_is_split_without_its_pings() -> None:
    assert [event.kind for event in events_of_case(sparkpost, Case("sparkpost", "batch"))] == [
        EventKind.QUEUED,
        EventKind.DELIVERED,
    ]
    assert sparkpost.split(b'[ { "msys" : { } } ]', {}) == []
    assert sparkpost.split(b"[]", {}) == []


def test_malformed_event_does_not_affect_others() -> None:
    good, *bad = sparkpost.split(
        b'[{"msys":{"message_event":{"type":"delivery","timestamp":"1"}}},1,{},{"msys":7}]', {}
    )
    assert sparkpost.normalize(good, context("sparkpost")).kind is EventKind.DELIVERED
    for event in bad:
        with pytest.raises(Unrecognised):
            sparkpost.normalize(event, context("sparkpost"))


def test_every_row_of_the_tables_has_a_golden_payload() -> None:
    seen = [inner for case in cases("sparkpost") for one in json.loads(case.payload) for inner in one["msys"].values()]
    assert {one["type"] for one in seen} >= set(sparkpost.KINDS)
    assert {one.get("bounce_class") for one in seen} >= set(sparkpost.CLASSES)


WORDLESS = {"raw_reason": "", "reason": "", "error_code": ""}


@pytest.mark.parametrize(("code", "expected"), sparkpost.CLASSES.items())
@pytest.mark.parametrize("name", ["bounce", "out_of_band"])
def test_returned_mail_is_classified_by_its_class(
    name: str, code: str, expected: tuple[EventKind, BounceClass | None]
) -> None:
    event = event_of_case(name, bounce_class=code, **WORDLESS)
    assert (event.kind, event.bounce_class) == expected


def test_unambiguous_reply_takes_precedence_over_the_class() -> None:
    said = {**WORDLESS, "raw_reason": "550 From address not verified", "error_code": "550"}
    assert event_of_case("bounce", bounce_class="10", **said).bounce_class is BounceClass.SOFT
    said["raw_reason"] = "550 5.1.1 no such user"
    assert event_of_case("bounce", bounce_class="40", **said).bounce_class is BounceClass.HARD


@pytest.mark.parametrize(("name", "kind"), [("delay", EventKind.DEFERRED), ("policy_rejection", EventKind.DROPPED)])
def test_class_of_other_events_is_ignored(name: str, kind: EventKind) -> None:
    for code in sparkpost.CLASSES:
        assert (event_of_case(name, bounce_class=code).kind, event_of_case(name, bounce_class=code).bounce_class) == (
            kind,
            None,
        )


def test_bounce_of_an_unknown_class_is_soft() -> None:
    assert event_of_case("bounce", bounce_class="55").bounce_class is BounceClass.SOFT


def test_event_id_is_native_or_made_from_fields() -> None:
    assert event_of_case("delivery", event_id="8c1d3ea2-ffff").event_id == "sparkpost:8c1d3ea2-ffff"
    assert event_of_case("click", event_id=None).event_id == event_of_case("click", event_id=None).event_id
    assert (
        event_of_case("click", event_id=None).event_id
        != event_of_case("click", event_id=None, target_link_url="x").event_id
    )


@pytest.mark.parametrize(
    "timestamp", ["1454442600", 1454442600, "2016-02-02T19:50:00.000Z", "2016-02-02T19:50:00.000+00:00"]
)
def test_time_is_read_in_both_formats(timestamp: object) -> None:
    assert event_of_case("delivery", timestamp=timestamp).occurred_at == 1454442600000


def test_event_without_an_email_id_is_uncorrelated() -> None:
    for metadata in ({}, {"mailfold_email_id": "theirs"}, "x", None):
        event = event_of_case("delivery", rcpt_meta=metadata)
        assert (event.email_id, event.provider_message_id) == (UNCORRELATED, "65832150921904138")


def test_message_sent_by_smtp_has_an_id() -> None:
    assert event_of_case("delivery", transmission_id=None).provider_message_id == "000443ee14578172be22"


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"\xff", b"a=b", b"[" * 100_000])
def test_a_body_that_is_no_array_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        sparkpost.split(body, {})


@pytest.mark.parametrize(
    "event",
    [
        b'{"msys":{"message_event":{}}}',
        b'{"msys":{"message_event":{"type":"open"}}}',
        b'{"msys":{"message_event":{"type":"open","timestamp":"soonT"}}}',
        b'{"msys":{"message_event":{"type":"open","timestamp":"1"},"track_event":{"type":"open","timestamp":"1"}}}',
    ],
    ids=["no type", "no time", "no real time", "two at once"],
)
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        sparkpost.normalize(event, context("sparkpost"))
