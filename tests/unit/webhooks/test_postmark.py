"""Postmark: a password in each request, two dozen kinds of bounces, and lists that addresses come onto."""

import base64
import json

import pytest

from pipeline.errors import AuthenticationFailed, InvalidSignatureError, Unrecognised
from pipeline.webhooks.base import UNCORRELATED, WebhookRequest
from pipeline.webhooks.providers import postmark
from tests.support.golden import Case, cases, context, events_of_case
from topics.events import BounceClass, DeliveryEvent, EventKind


def login(user_and_password: str, scheme: str = "Basic") -> WebhookRequest:
    credentials = base64.b64encode(user_and_password.encode()).decode()
    return WebhookRequest(headers={"authorization": f"{scheme} {credentials}"}, body=b"{}")


def event_of_case(case: str, **changed: object) -> DeliveryEvent:
    body = json.dumps(json.loads(Case("postmark", case).payload) | changed).encode()
    (event,) = events_of_case(postmark, Case("postmark", case), body)
    return event


@pytest.mark.parametrize("scheme", ["Basic", "basic"])
def test_request_with_the_password_is_verified(scheme: str) -> None:
    postmark.verify(login("mailfold:secret", scheme), ["mailfold:secret"], 0, 60)
    postmark.verify(login("mailfold:secret", scheme), ["mailfold:older", "mailfold:secret"], 0, 60)


@pytest.mark.parametrize(
    "incoming",
    [
        login("mailfold:wrong"),
        login("mailfold:secret "),
        login(""),
        login("mailfold:secret", "Bearer"),
        WebhookRequest(headers={"authorization": "Basic not base64!"}, body=b""),
        WebhookRequest(headers={}, body=b""),
    ],
    ids=["another", "a space more", "nothing", "bearer", "not base64", "no header"],
)
def test_request_without_valid_credentials_is_refused(incoming: WebhookRequest) -> None:
    with pytest.raises(InvalidSignatureError):
        postmark.verify(incoming, ["mailfold:secret"], 0, 60)


def test_credentials_that_are_not_base64_can_be_corrected() -> None:
    incoming = WebhookRequest(headers={"authorization": "Basic not base64!"}, body=b"")
    with pytest.raises(AuthenticationFailed):
        postmark.verify(incoming, ["mailfold:secret"], 0, 60)


def test_request_is_refused_without_a_configured_key() -> None:
    with pytest.raises(AuthenticationFailed):
        postmark.verify(login(":"), [], 0, 60)


def test_every_row_of_the_tables_has_a_golden_payload() -> None:
    seen = [json.loads(case.payload) for case in cases("postmark")]
    assert {one["RecordType"] for one in seen} >= set(postmark.RECORDS)
    assert {one.get("Type") or one.get("SuppressionReason") for one in seen} >= set(postmark.TYPES)


@pytest.mark.parametrize(("name", "expected"), postmark.TYPES.items())
def test_bounce_is_classified_by_its_type(name: str, expected: tuple[EventKind, BounceClass | None]) -> None:
    event = event_of_case("bounce_hard_bounce", Type=name)
    assert (event.kind, event.bounce_class, event.bounce_type) == (*expected, name)


def test_a_bounce_of_a_new_type_is_unknown() -> None:
    assert event_of_case("bounce_hard_bounce", Type="Teleported").kind is EventKind.UNKNOWN


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"SuppressionReason": "ManualSuppression", "Origin": "Recipient"}, EventKind.UNSUBSCRIBED),
        ({"SuppressionReason": "ManualSuppression", "Origin": "Customer"}, EventKind.UNKNOWN),
        ({"SuppressionReason": "ManualSuppression", "Origin": "Admin"}, EventKind.UNKNOWN),
        ({"SuppressionReason": "HardBounce", "Origin": "Customer"}, EventKind.BOUNCED),
        ({"SuppressionReason": "Teleported"}, EventKind.UNKNOWN),
        ({"SuppressSending": False}, EventKind.UNKNOWN),
    ],
)
def test_suppression_is_an_unsubscription_only_by_the_recipient(changed: dict[str, object], kind: EventKind) -> None:
    assert event_of_case("subscription_change_hard_bounce", **changed).kind is kind


def test_event_id_is_native_for_bounces_and_complaints_only() -> None:
    assert event_of_case("bounce_hard_bounce", ID=7).event_id == "postmark:7"
    assert event_of_case("spam_complaint", ID=8).event_id == "postmark:8"
    assert event_of_case("open").event_id == event_of_case("open").event_id
    others = [
        event_of_case("open", ReceivedAt="2019-11-05T16:33:55Z"),
        event_of_case("open", Recipient="jane@example.com"),
        event_of_case("click"),
    ]
    others.append(event_of_case("click", OriginalLink="https://example.com/2"))
    assert len({event_of_case("open").event_id, *(event.event_id for event in others)}) == 5


def test_event_without_an_email_id_is_uncorrelated() -> None:
    for metadata in ({}, {"mailfold_email_id": "theirs"}, "x", None):
        event = event_of_case("delivery", Metadata=metadata)
        assert event.email_id == UNCORRELATED
        assert event.provider_message_id == "883953f4-6105-42a2-a16a-77a8eac79483"


def test_content_of_a_returned_mail_is_removed() -> None:
    assert "Dear John" not in bytes(event_of_case("bounce_with_diagnostics").native).decode()


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"a=b", b"[" * 100_000])
def test_a_body_that_is_no_object_is_unrecognised(body: bytes) -> None:
    with pytest.raises(Unrecognised):
        postmark.split(body, {})


@pytest.mark.parametrize("event", [b"{}", b'{"RecordType":"Open"}', b'{"RecordType":"Open","ReceivedAt":"x"}'])
def test_malformed_event_is_unrecognised(event: bytes) -> None:
    with pytest.raises(Unrecognised):
        postmark.normalize(event, context("postmark"))
