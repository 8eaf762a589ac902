"""Tests of the listing of the email API: golden files and parameters."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.dialects import email_v1
from pipeline.errors import Refused
from pipeline.webhooks.base import EventContext
from pipeline.webhooks.providers.registry import ADAPTERS
from pipeline.worker.fold import evolve
from tests.support.changes import T0, acked, conversion_result, event, request
from topics.acks import Deferred, Dropped, Failed, Rejected
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import BounceClass, EventKind
from topics.readings import ListedState, listed_state, sent_at
from topics.requests import SendRequest
from topics.states import EmailState

GOLDEN = Path(__file__).parents[2] / "golden" / "email_v1"

PHOTOS = msgspec.structs.replace(
    request(1, dialect="email_v1"),
    kind="tokenAndGroup",
    brand="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",
    details=msgspec.Raw(
        b'{"To":"player1@example.com","Type":"tokenAndGroup","BrandId":"7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",'
        b'"Token":"abcde","NumPhotos":10,"GroupId":"5d0f7f6e-7c1c-5f44-9a0a-6f0b7d1c2e04","Internal":true}'
    ),
)
OWN: dict[str, Any] = {
    "email_id": request(1).email_id,
    "event_id": "own",
    "occurred_at": T0 + 90,
    "recorded_at": T0 + 99,
}
SOFT = msgspec.structs.replace(
    event(1, EventKind.BOUNCED, T0 + 7000), bounce_class=BounceClass.SOFT, bounce_type="", code=452, enhanced="4.2.2"
)
BLOCKED = msgspec.structs.replace(
    event(1, EventKind.BOUNCED, T0 + 7000), bounce_type="blocked", bounce_subtype="5.7.1", code=550, enhanced="5.7.1"
)

LIVES: dict[str, list[Fact]] = {
    "sent": [request(1), acked(1, T0 + 1500)],
    "delivered_with_details": [PHOTOS, acked(1, T0 + 1500), event(1, EventKind.DELIVERED, T0 + 2500)],
    "opened_and_told": [
        request(1),
        acked(1, T0 + 1500),
        event(1, EventKind.DELIVERED, T0 + 2500),
        event(1, EventKind.OPENED, T0 + 60_000),
        conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0 + 90_000),
    ],
    "complaint": [
        request(1),
        acked(1, T0),
        event(1, EventKind.DELIVERED, T0),
        event(1, EventKind.COMPLAINED, T0 + 9999),
    ],
    "bounced_hard_by_smtp": [request(1), Rejected(code=550, enhanced="5.1.1", text="no such user", **OWN)],
    "bounced_soft": [request(1), acked(1, T0), SOFT],
    "bounced_in_the_provider_s_words": [request(1), acked(1, T0), BLOCKED],
    "dropped": [request(1), Dropped(reason="suppressed: hard bounce", **OWN)],
    "failed": [request(1), Failed(reason="gave up", code=451, text="greylisted", **OWN)],
}


def state_of(facts: list[Fact]) -> EmailState:
    state = None
    for fact in facts:
        state = evolve(state, fact)
    assert state is not None
    return state


@pytest.mark.parametrize("name", LIVES)
def test_listed_email_equals_its_golden_file(name: str) -> None:
    answer = json.loads(email_v1.encode_list_response("acme", [state_of(LIVES[name])]))
    assert answer == json.loads((GOLDEN / f"{name}.json").read_text())


def refused(code: int, enhanced: str, text: str) -> Rejected:
    return Rejected(code=code, enhanced=enhanced, text=text, **OWN)


def words_of(*facts: Fact) -> tuple[str, str, str]:
    [email] = json.loads(email_v1.encode_list_response("acme", [state_of([request(1), *facts])]))["Emails"]
    return email["BounceType"], email["BounceSubType"], email["BounceDetails"]


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "bounce_type"),
    [
        (550, "5.1.1", "5.1.1 no such user", "Permanent"),
        (550, "5.4.1", "5.4.1 Recipient address rejected: Access denied", "Permanent"),
        (550, "", "From address not verified", "Transient"),
        (552, "5.2.2", "5.2.2 mailbox full", "Transient"),
    ],
)
def test_bounce_has_the_same_details_from_every_source(code: int, enhanced: str, text: str, bounce_type: str) -> None:
    at_rcpt = words_of(refused(code, enhanced, text))
    assert at_rcpt == (bounce_type, "General", f"{code} {text}")
    sendgrid_event = {
        "event": "bounce",
        "email": "a@example.com",
        "timestamp": 1,
        "type": "bounce",
        "reason": f"{code} {text}",
    }
    for provider, payload in (
        ("sendgrid", sendgrid_event),
        ("mandrill", {"event": "hard_bounce", "ts": 1, "msg": {"diag": f"smtp;{code} {text}"}}),
        ("brevo", {"event": "soft_bounce", "ts": 1, "ts_epoch": 1, "reason": f"{code} {text}"}),
    ):
        fact = ADAPTERS[provider].normalize(
            msgspec.json.encode(payload), EventContext(provider=provider, received_at=T0)
        )
        fact = msgspec.structs.replace(fact, email_id=request(1).email_id)
        assert words_of(acked(1, T0), fact) == at_rcpt, provider


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "details"),
    [
        (550, "5.1.1", "550 5.1.1 550 5.1.1 no such user", "550 5.1.1 no such user"),
        (550, "5.1.1", "550-5.1.1 no such user", "550 5.1.1 no such user"),
        (550, "5.1.1", "smtp; 550 5.1.1 no such user", "550 5.1.1 no such user"),
        (550, "5.1.1", "550 no such user", "550 5.1.1 no such user"),
        (550, "", "no such user 550", "550 no such user 550"),
        (550, "5.1.1", "554 relayed 550 5.1.1", "550 5.1.1 554 relayed 550 5.1.1"),
        (0, "", "no such user", "no such user"),
        (550, "", "", "550"),
    ],
)
def test_details_name_each_code_once(code: int, enhanced: str, text: str, details: str) -> None:
    assert words_of(refused(code, enhanced, text))[2] == details


def test_email_with_only_deferred_attempts_is_not_listed_as_sent() -> None:
    tried = Deferred(next_attempt_at=T0 + 60_000, code=451, text="greylisted", **OWN)
    state = state_of([request(1), tried])
    assert json.loads(email_v1.encode_list_response("acme", [state])) == {"Emails": []}
    assert (sent_at(state), listed_state(state)) == (None, None)
    later = state_of([request(1), tried, acked(1, T0 + 5000)])
    assert (sent_at(later), listed_state(later)) == (T0 + 5000, ListedState.SENT)
    gave_up = state_of([request(1), tried, Failed(reason="gave up", **{**OWN, "event_id": "f", "occurred_at": T0 + 7})])
    assert (sent_at(gave_up), listed_state(gave_up)) == (T0 + 7, ListedState.BOUNCED)


def test_fields_are_in_the_documented_order() -> None:
    [email] = json.loads(email_v1.encode_list_response("acme", [state_of(LIVES["delivered_with_details"])]))["Emails"]
    assert " ".join(email) == (
        "Email Type MessageId SentAt LastUpdated State BrandId OwnerId MsgDetails ComplaintType BounceType "
        "BounceSubType BounceDetails DeliveredDate"
    )
    assert " ".join(email["MsgDetails"]) == "To Type BrandId Token GroupId NumPhotos"


def test_email_that_is_only_accepted_or_has_no_request_is_not_listed() -> None:
    accepted, orphan = state_of([request(1)]), state_of([event(2, EventKind.DELIVERED, T0)])
    assert json.loads(email_v1.encode_list_response("acme", [accepted, orphan], "more")) == {
        "Emails": [],
        "Next": "more",
    }


def test_numbers_beyond_64_bits_in_details_are_unchanged() -> None:
    odd: SendRequest = msgspec.structs.replace(
        PHOTOS, details=msgspec.Raw(b'{"NumPhotos":123456789012345678901234567890}')
    )
    assert b'"NumPhotos":123456789012345678901234567890' in email_v1.encode_list_response(
        "acme", [state_of([odd, acked(1, T0)])]
    )


def test_parameters_are_parsed_and_unknown_ones_ignored() -> None:
    params = {"BrandId": "b", "State": "bounced", "After": "1449791030", "Next": "n", "Limit": "x", "state": "?"}
    assert email_v1.parse_query(params) == email_v1.EmailV1ListQuery(
        brand="b", state=ListedState.BOUNCED, after=1449791030, next="n"
    )
    assert email_v1.parse_query({"State": "", "After": ""}) == email_v1.EmailV1ListQuery()


def test_other_parameters_are_ignored_beside_an_email() -> None:
    assert email_v1.parse_query({"Email": "a b@example.com"}).email == "a+b@example.com", "a plus that nobody encoded"
    query = email_v1.parse_query({"Email": "a@example.com", "State": "?", "After": "?", "BrandId": "b"})
    assert query == email_v1.EmailV1ListQuery(email="a@example.com")


@pytest.mark.parametrize("after", ["-1", "1.5", " 1", "1_000", "१", "0x1", "1449791030000", "9" * 5000, "now"])
def test_invalid_time_is_refused_by_name(after: str) -> None:
    with pytest.raises(Refused, match="After: must be a unix time"):
        email_v1.parse_query({"After": after})


@pytest.mark.parametrize("state", ["Sent", "opened", "sent,bounced", "\x00"])
def test_unknown_state_is_refused_with_the_valid_ones(state: str) -> None:
    with pytest.raises(Refused, match="State: must be one of sent, delivered, bounced, complaint"):
        email_v1.parse_query({"State": state})
