"""Raw webhooks become events; one that is not understood affects no other."""

import json
from typing import Any, NamedTuple

from pipeline.gateway.smtp.envelope import mail_record
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.webhooks import normalize as module
from pipeline.webhooks.normalize import NormalizedWebhook, is_heavy, normalize, normalized_records
from pipeline.webhooks.token_readers import token_readers
from pipeline.worker.fold_batch import RecordBatch
from tests.conftest import RING
from tests.support.echoes import echoed
from topics.codec import decode, encode
from topics.record import EmailId, LogPosition
from topics.registry import (
    DEAD_LETTERS,
    DELIVERY_EVENTS,
    MAX_RECORD_BYTES,
    PROVIDER_WEBHOOKS,
    UNCORRELATED_EVENTS,
)
from topics.webhooks import RawWebhook

EMAIL_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
PLACE = LogPosition(topic="provider-webhooks", partition=0, offset=7)
FINE = {"event": "open", "timestamp": 2, "sg_event_id": "2", **echoed(EMAIL_ID)}


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes


def normalized(value: bytes) -> NormalizedWebhook:
    return normalize(ConsumedRecord(PROVIDER_WEBHOOKS, PLACE, None, value), token_readers(RING), 9)


def webhook(events: Any, kind: str = "sendgrid") -> bytes:
    body = events if isinstance(events, bytes) else json.dumps(events).encode()
    return encode(
        PROVIDER_WEBHOOKS,
        RawWebhook(webhook_id="w", provider="main", kind=kind, received_at=5, headers=(), body=body),
    )


def test_events_and_dead_letters_are_separated() -> None:
    result = normalized(webhook([FINE, {"event": "open", "timestamp": 1}, 7, FINE | {"sg_event_id": "3"}]))
    assert [event.event_id for event in result.events] == ["sendgrid:2", "sendgrid:3"]
    assert {event.recorded_at for event in result.events} == {5}
    assert {event.provider for event in result.events} == {"main"}
    assert [(each.reason, each.value, each.source) for each in result.dead_letters] == [
        ("uncorrelated", b'{"event": "open", "timestamp": 1}', PLACE),
        ("unrecognised", b"7", PLACE),
    ]
    assert [entry.topic for entry in result.entries()] == [DELIVERY_EVENTS] * 2 + [DEAD_LETTERS] * 2
    assert result.entries()[0].key == EMAIL_ID


def test_an_event_that_names_only_its_provider_s_message_waits_for_the_ack() -> None:
    """Under the one spelling of that name, so that what is told of one message keeps its order."""
    opened = {"event": "open", "timestamp": 1, "sg_message_id": "tC4LGVjZTgi116GN5ZRO6Q.filter0361p1las1-11880-5.0"}
    result = normalized(webhook([opened]))
    [entry] = result.entries()
    assert (entry.topic, entry.key) == (UNCORRELATED_EVENTS, "tC4LGVjZTgi116GN5ZRO6Q")
    assert result.dead_letters == ()


def test_a_webhook_that_cannot_be_read_is_one_dead_letter() -> None:
    results = {value: normalized(value) for value in (b"\xc1", webhook(b"no JSON"), webhook([], kind="smtp"))}
    assert [[dead_letter.reason for dead_letter in each.dead_letters] for each in results.values()] == [
        ["undecodable"],
        ["unrecognised"],
        ["unrecognised"],
    ]
    assert [each.dead_letters[0].value for each in results.values()] == list(results)


def test_an_event_too_large_for_the_log_is_a_dead_letter(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", module._ENVELOPE_MAX_BYTES + 200)
    result = normalized(webhook([FINE, FINE | {"novelty": "x" * 200}]))
    assert len(result.events) == 1
    assert result.dead_letters[0].reason == "unrecognised"


def test_an_event_that_grows_too_large_for_the_log_is_a_dead_letter() -> None:
    """The provider's words lie in it twice; what fits in no record would stop the worker at each start."""
    result = normalized(webhook([FINE | {"reason": "x" * 500_000}, FINE]))
    assert len(result.events) == 1
    [dead_letter] = result.dead_letters
    assert dead_letter.reason == "unrecognised"
    assert "an event that takes 1000" in dead_letter.error
    assert all(len(encode(entry.topic, entry.record)) <= MAX_RECORD_BYTES for entry in result.entries())


def test_long_event_id_is_replaced_by_its_hash() -> None:
    result = normalized(webhook([FINE | {"sg_event_id": "x" * 10_000}, FINE | {"sg_event_id": "y" * 10_000}]))
    names = [event.event_id for event in result.events]
    assert len(set(names)) == 2
    assert all(len(name) < 100 for name in names)


def test_webhook_of_a_wrongly_configured_kind_does_not_raise() -> None:
    mistaken = [Record(offset, None, webhook([7] * 50)) for offset in range(20)]
    fine = Record(20, None, webhook([FINE]))
    run = RecordBatch(PROVIDER_WEBHOOKS, 0, [*mistaken, fine])
    topics = [
        output.topic
        for record in run.consumed_records()
        for output in normalized_records(record, token_readers(RING), 9)
    ]
    assert topics == [DEAD_LETTERS.name] * 1_000 + [DELIVERY_EVENTS.name]


def test_an_adapter_that_fails_makes_a_dead_letter_and_names_no_content(monkeypatch: Any) -> None:
    def failing(*_: Any) -> None:
        raise KeyError("anna@example.test")

    monkeypatch.setattr(module, "events_of", failing)
    record = ConsumedRecord(PROVIDER_WEBHOOKS, PLACE, None, webhook([FINE]))
    [output] = normalized_records(record, token_readers(RING), 9)
    dead_letter = decode(DEAD_LETTERS, output.value)
    assert (output.topic, dead_letter.reason, dead_letter.value, dead_letter.source) == (
        "dead-letters",
        "failed",
        record.value,
        PLACE,
    )
    assert "anna" not in dead_letter.error


def test_mails_and_large_webhooks_are_heavy() -> None:
    assert not is_heavy(webhook([FINE]))
    assert not is_heavy(b"\xc1")
    assert is_heavy(webhook([FINE] * 200))
    assert is_heavy(encode(PROVIDER_WEBHOOKS, mail_record(b"Subject: x\r\n\r\n", 5, to="a@b.example", sender="<>")))
