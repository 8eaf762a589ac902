"""What a provider calls a message, in whichever spelling, is one name; and what a stretch of both topics teaches."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch.correlation.parse import parse_records
from pipeline.dispatch.transports.smtp_replies import provider_message_id
from pipeline.webhooks.message_ids import match_key
from tests.support.facts import EMAIL_ID, event
from topics.acks import Acked, Deferred
from topics.codec import encode
from topics.events import EventKind
from topics.record import EmailId
from topics.registry import PROVIDER_ACKS, UNCORRELATED_EVENTS, Topic

plain = st.from_regex(r"[a-z0-9][A-Z0-9_=+-]{4,60}", fullmatch=True)


@pytest.mark.parametrize(
    ("told", "meant"),
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
def test_an_id_has_one_spelling(told: str, meant: str) -> None:
    assert match_key(told) == meant


@pytest.mark.parametrize(
    ("answered", "told_later"),
    [
        ("2.0.0 Ok: queued as tC4LGVjZTgi116GN5ZRO6Q", "tC4LGVjZTgi116GN5ZRO6Q.recvd-5b6594c664-csn64-1-65A9F4D1-A.0"),
        ("Ok 0100018c5f64-4d0d9f3e-8a6b-000000", "0100018c5f64-4d0d9f3e-8a6b-000000@email.amazonses.com"),
        ("2.0.0 Ok: queued as 4Xk9Zt2Q1Lz9sWb", "<4Xk9Zt2Q1Lz9sWb>"),
    ],
)
def test_what_an_smtp_server_answers_is_what_its_events_tell(answered: str, told_later: str) -> None:
    assert match_key(provider_message_id(answered)) == match_key(told_later) != ""


@given(plain)
def test_both_sides_of_a_correlation_meet(name: str) -> None:
    ours = match_key(name)
    for spelt in (f"<{name}>", f" {name}\r\n", f"{name}@eu-west-1.amazonses.com", f"{name}.filter0001p1-1.0"):
        assert match_key(spelt) == ours


@given(plain, plain)
def test_two_ids_stay_two(one: str, other: str) -> None:
    assert (match_key(one) == match_key(other)) == (one == other)


@given(st.text(max_size=2000))
def test_whatever_a_provider_says_fits_an_index(told: str) -> None:
    key = match_key(told)
    assert len(key.encode()) <= 200
    assert "\x00" not in key
    assert match_key(told) == key


def record(topic: Topic, fact: Any, offset: int = 0) -> Any:
    return SimpleNamespace(
        topic=topic.name, partition=1, offset=offset, key=b"", timestamp=77, value=encode(topic, fact)
    )


def acked(email_id: EmailId = EMAIL_ID, name: str = "<m>", **values: Any) -> Acked:
    return Acked(
        email_id=email_id, event_id="a", occurred_at=1, recorded_at=2, provider="p", provider_message_id=name, **values
    )


def test_acks_and_events_are_told_apart_and_nonsense_apart_from_both() -> None:
    topics = {topic.name: topic for topic in (PROVIDER_ACKS, UNCORRELATED_EVENTS)}
    waits = event(EventKind.BOUNCED, provider_message_id="m")
    orphan = {"email_id": EmailId("")}
    records = [
        record(PROVIDER_ACKS, acked()),
        record(PROVIDER_ACKS, acked(name="")),
        record(PROVIDER_ACKS, acked(EmailId("no uuid"))),
        record(
            PROVIDER_ACKS, Deferred(email_id=EMAIL_ID, event_id="d", occurred_at=1, recorded_at=2, next_attempt_at=3)
        ),
        record(UNCORRELATED_EVENTS, _replaced(waits, **orphan), 5),
        record(UNCORRELATED_EVENTS, _replaced(waits, **orphan, provider_message_id="")),
        record(UNCORRELATED_EVENTS, waits),
        SimpleNamespace(topic=UNCORRELATED_EVENTS.name, partition=0, offset=9, value=b"{"),
    ]
    learnt = parse_records(topics, records)
    assert learnt.ids == {(("p", "m"), EMAIL_ID): 2}
    assert [(one.key, one.partition, one.place, one.since) for one in learnt.waiting] == [(("p", "m"), 1, 5, 77)]
    assert [broken for broken, _ in learnt.broken] == records[5:]


def _replaced(told: Any, **values: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(told, **values)
