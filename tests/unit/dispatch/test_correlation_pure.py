"""Match keys of provider message ids, and the parsing of acks and uncorrelated events."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch.correlation.parse import parse_records, with_email_id
from pipeline.dispatch.transports.smtp_replies import provider_message_id
from pipeline.webhooks.provider_message_ids import match_key
from tests.support.facts import EMAIL_ID, event
from topics.acks import Acked, Deferred
from topics.codec import NewerRecord, encode
from topics.events import EventKind
from topics.record import EmailId
from topics.registry import PROVIDER_ACKS, UNCORRELATED_EVENTS, Topic

plain = st.from_regex(r"[a-z0-9][A-Z0-9_=+-]{4,60}", fullmatch=True)


@pytest.mark.parametrize(
    ("message_id", "key"),
    [
        # SES: in the header, in the events; us-east-1 is called `email`
        ("<010f018c-5f64-000000@eu-west-1.amazonses.com>", "010f018c-5f64-000000"),
        ("0100018c-5f64-000000@email.amazonses.com", "0100018c-5f64-000000"),
        ("0100018c-5f64-000000", "0100018c-5f64-000000"),
        # SendGrid: X-Message-Id, and sg_message_id by several of its servers
        ("tC4LGVjZTgi116GN5ZRO6Q", "tC4LGVjZTgi116GN5ZRO6Q"),
        ("tC4LGVjZTgi116GN5ZRO6Q.filterdrecv-p3iad2-5dc87598f5-bvh7w-20-5FB44F45-3E.0", "tC4LGVjZTgi116GN5ZRO6Q"),
        ("tC4LGVjZTgi116GN5ZRO6Q.recvd-5b6594c664-csn64-1-65A9F4D1-A.0", "tC4LGVjZTgi116GN5ZRO6Q"),
        ("tC4LGVjZTgi116GN5ZRO6Q.whatcomesnext-1.0", "tC4LGVjZTgi116GN5ZRO6Q"),
        ("14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0", "14c5d75ce93.dfd.64b469"),
        # Mailgun: with brackets in the answer, without in the events
        ("<20111114174239.25659.5817@samples.mailgun.org>", "20111114174239.25659.5817@samples.mailgun.org"),
        # Postfix, Exim, Postmark
        ("4Xk9Zt2Q1Lz9sWb", "4Xk9Zt2Q1Lz9sWb"),
        ("1rXyZa-0001Ab-2C", "1rXyZa-0001Ab-2C"),
        ("0A1B2C3D-0000-4000-8000-0123456789AB", "0a1b2c3d-0000-4000-8000-0123456789ab"),
        ("", ""),
        (" <> ", ""),
    ],
)
def test_spellings_of_message_id_have_one_match_key(message_id: str, key: str) -> None:
    assert match_key(message_id) == key


@pytest.mark.parametrize(
    ("smtp_reply", "event_message_id"),
    [
        ("2.0.0 Ok: queued as tC4LGVjZTgi116GN5ZRO6Q", "tC4LGVjZTgi116GN5ZRO6Q.recvd-5b6594c664-csn64-1-65A9F4D1-A.0"),
        ("Ok 0100018c5f64-4d0d9f3e-8a6b-000000", "0100018c5f64-4d0d9f3e-8a6b-000000@email.amazonses.com"),
        ("2.0.0 Ok: queued as 4Xk9Zt2Q1Lz9sWb", "<4Xk9Zt2Q1Lz9sWb>"),
    ],
)
def test_smtp_reply_and_events_have_same_match_key(smtp_reply: str, event_message_id: str) -> None:
    assert match_key(provider_message_id(smtp_reply)) == match_key(event_message_id) != ""


@given(plain)
def test_any_spelling_of_an_id_has_its_match_key(message_id: str) -> None:
    key = match_key(message_id)
    for spelling in (
        f"<{message_id}>",
        f" {message_id}\r\n",
        f"{message_id}@eu-west-1.amazonses.com",
        f"{message_id}.filter0001p1-1.0",
    ):
        assert match_key(spelling) == key


@given(plain, plain)
def test_different_ids_have_different_match_keys(one: str, other: str) -> None:
    assert (match_key(one) == match_key(other)) == (one == other)


@given(st.text(max_size=2000))
def test_match_key_of_any_text_is_bounded_and_storable(text: str) -> None:
    key = match_key(text)
    assert len(key.encode()) <= 200
    assert "\x00" not in key
    assert match_key(text) == key


def record(topic: Topic, fact: Any, offset: int = 0) -> Any:
    return SimpleNamespace(
        topic=topic.name, partition=1, offset=offset, key=b"", timestamp=77, value=encode(topic, fact)
    )


def acked(email_id: EmailId = EMAIL_ID, name: str = "<m>", **values: Any) -> Acked:
    return Acked(
        email_id=email_id, event_id="a", occurred_at=1, recorded_at=2, provider="p", provider_message_id=name, **values
    )


def test_records_are_parsed_into_ids_events_and_broken_ones() -> None:
    topics = {topic.name: topic for topic in (PROVIDER_ACKS, UNCORRELATED_EVENTS)}
    correlated = event(EventKind.BOUNCED, provider_message_id="m")
    without_email = {"email_id": EmailId("")}
    records = [
        record(PROVIDER_ACKS, acked()),
        record(PROVIDER_ACKS, acked(name="")),
        record(PROVIDER_ACKS, acked(EmailId("no uuid"))),
        record(
            PROVIDER_ACKS, Deferred(email_id=EMAIL_ID, event_id="d", occurred_at=1, recorded_at=2, next_attempt_at=3)
        ),
        record(UNCORRELATED_EVENTS, _replaced(correlated, **without_email), 5),
        record(UNCORRELATED_EVENTS, _replaced(correlated, **without_email, provider_message_id="")),
        record(UNCORRELATED_EVENTS, correlated),
        SimpleNamespace(topic=UNCORRELATED_EVENTS.name, partition=0, offset=9, value=b"{"),
    ]
    batch = parse_records(topics, records)
    assert batch.ids == {(("p", "m"), EMAIL_ID): 2}
    assert [(each.key, each.partition, each.place, each.since) for each in batch.waiting] == [(("p", "m"), 1, 5, 77)]
    assert [broken for broken, _ in batch.broken] == records[5:]


def test_event_without_a_message_id_may_claim_an_email() -> None:
    claim = _replaced(event(EventKind.BOUNCED), email_id=EmailId(""), claimed_email_id=EMAIL_ID)
    mistaken = _replaced(claim, claimed_email_id=EmailId("no uuid"))
    records = [record(UNCORRELATED_EVENTS, claim), record(UNCORRELATED_EVENTS, mistaken)]
    batch = parse_records({UNCORRELATED_EVENTS.name: UNCORRELATED_EVENTS}, records)
    assert [each.event for each in batch.waiting] == [claim]
    assert [broken for broken, _ in batch.broken] == records[1:]


def test_correlated_event_claims_nothing_any_more() -> None:
    claim = _replaced(event(EventKind.BOUNCED), email_id=EmailId(""), claimed_email_id=EMAIL_ID)
    assert with_email_id(claim, EMAIL_ID) == event(EventKind.BOUNCED)


@pytest.mark.parametrize("topic", [PROVIDER_ACKS, UNCORRELATED_EVENTS], ids=lambda topic: topic.name)
def test_newer_version_stops_the_correlation_with_its_place(topic: Topic) -> None:
    fact = acked() if topic is PROVIDER_ACKS else event(EventKind.BOUNCED, provider_message_id="m")
    newer = record(topic, fact, 17)
    newer.value = newer.value.replace(b"acked/1", b"acked/2").replace(b"event/1", b"event/2")
    with pytest.raises(NewerRecord, match=f"^{topic.name}/1/17: .*/2 is newer"):
        parse_records({topic.name: topic}, [newer])


def _replaced(event: Any, **values: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(event, **values)
