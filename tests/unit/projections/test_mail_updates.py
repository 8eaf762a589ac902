"""Updates of mails from changes: applied once, counted once, the same from any split and order."""

import json
import random
from typing import Any

import msgspec

from pipeline.worker.fold import evolve
from projections import mail_updates
from tests.support.changes import T0
from topics.acks import Acked
from topics.changes import AppliedFact, EmailChange
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId, LogPosition
from topics.requests import SendRequest
from topics.states import EmailState

EMAIL = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")


def request(**values: Any) -> SendRequest:
    fields: dict[str, Any] = {
        "email_id": EMAIL,
        "message_id": "m",
        "tenant": "acme",
        "dialect": "extrahorizon",
        "brand": "default",
        "recipient": "anna@example.com",
        "recorded_at": T0,
        "details": msgspec.Raw(b'{"id":"m","subject":"x\\u0000y","creation_timestamp":5}'),
        "variables": msgspec.Raw(b'{"a":{"camelCase":12345678901234567890123, "tiny": 1e-999999}}'),
    }
    return SendRequest(**(fields | values))


def opened(number: int) -> DeliveryEvent:
    return DeliveryEvent(
        email_id=EMAIL,
        event_id=f"extrahorizon:{number}",
        kind=EventKind.OPENED,
        occurred_at=T0 + number,
        recorded_at=T0 + number,
        provider="extrahorizon",
    )


def changes(*facts: Any) -> list[tuple[EmailChange, EmailState | None, EmailState]]:
    state: EmailState | None = None
    updates = []
    for nth, fact in enumerate(facts):
        before, state = state, evolve(state, fact)
        applied = AppliedFact(place=LogPosition(topic="t", partition=0, offset=nth), fact=fact)
        change = EmailChange(email_id=EMAIL, recorded_at=T0, facts=(applied,), state=state)
        updates.append((change, before, state))
    return updates


def noted(*facts: Any) -> mail_updates.MailUpdate | None:
    mails: dict[EmailId, mail_updates.MailUpdate] = {}
    for change, before, after in changes(*facts):
        mail_updates.add_change(mails, change, before, after)
    return mails.get(EMAIL)


def test_only_extra_horizon_s_emails_are_mails() -> None:
    assert noted(request(dialect="fasttrack")) is None
    assert noted(opened(1)) is None
    assert noted(request()) is not None


def test_the_first_recipient_s_request_tells_the_mail_with_its_content_and_the_provider_s_id() -> None:
    acked = Acked(
        email_id=EMAIL, event_id="a", occurred_at=T0, recorded_at=T0 + 7, provider="relay", provider_message_id="abc"
    )
    mailed = noted(request(), acked)
    assert mailed is not None
    assert json.loads(mail_updates.mail_document(mailed.state) or "") == {
        "id": "m",
        "subject": "x\ufffdy",
        "creation_timestamp": 5,
        "content": {"a": {"camelCase": 12345678901234567890123, "tiny": 0.0}},
        "aws_message_id": "abc",
    }
    assert mail_updates.mail_updated_at(mailed.state) == T0 + 7
    other = noted(request(details=msgspec.Raw(b"null")))
    assert other is not None
    assert mail_updates.mail_document(other.state) is None


def test_a_backslash_before_what_looks_like_a_nul_stays() -> None:
    mailed = noted(request(details=msgspec.Raw(b'{"id":"a\\\\u0000\\\\\\u0000"}'), variables=msgspec.Raw(b"null")))
    assert mailed is not None
    assert json.loads(mail_updates.mail_document(mailed.state) or "") == {"id": "a\\u0000\\\ufffd"}


def test_what_was_seen_before_the_request_counts_when_it_comes() -> None:
    mailed = noted(opened(1), request(), opened(2))
    assert mailed is not None
    assert mailed.is_new
    again = {EMAIL: mailed}
    change, _, after = changes(request(), opened(3))[1]
    mails: dict[EmailId, mail_updates.MailUpdate] = {}
    mail_updates.add_change(mails, change, changes(request())[0][2], after)
    assert not mails[EMAIL].is_new
    assert mail_updates.mail_updated_at(again[EMAIL].state) == T0 + 2


def test_the_last_update_is_the_same_in_any_order() -> None:
    facts = [request(), *[opened(number) for number in range(5)]]
    chance = random.Random(7)
    for _ in range(20):
        chance.shuffle(facts)
        mailed = noted(*facts)
        assert mailed is not None
        assert mail_updates.mail_updated_at(mailed.state) == T0 + 4


def test_views_are_calls_of_open_and_nothing_else() -> None:
    keys = [(EMAIL, name) for name in ("pixel:1", "extrahorizon:1", "send-request", "sg:2")]
    assert mail_updates.view_events(keys) == [(EMAIL, "extrahorizon:1")]
