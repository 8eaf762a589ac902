"""The codec: records survive a round trip, invalid bytes are refused, older versions are converted."""

import json
import string
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.facts import acks, conversions, events, requests
from topics import codec
from topics.acks import Acked
from topics.changes import Fact
from topics.codec import NewerRecord, RawFields, Undecodable, decode, decode_with_raw, encode, upcast
from topics.dead_letters import DeadLetter
from topics.record import LogPosition, Record
from topics.registry import (
    CONVERSION_RESULTS,
    DEAD_LETTERS,
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    EMAIL_STATES,
    PROVIDER_ACKS,
    PROVIDER_WEBHOOKS,
    SEND_REQUESTS,
    TOPICS,
    Topic,
)
from topics.requests import SendRequest
from topics.webhooks import RawWebhook

GOLDEN = Path(__file__).parents[2] / "golden" / "codec"
EMAIL_ID = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"


@given(st.one_of(*(st.tuples(st.just(topic), kind) for topic, kind in (
    (SEND_REQUESTS, requests), (PROVIDER_ACKS, acks), (DELIVERY_EVENTS, events), (CONVERSION_RESULTS, conversions)
))))  # fmt: skip
def test_what_is_written_is_read_back(pair: tuple[Topic, Fact]) -> None:
    topic, fact = pair
    assert decode(topic, encode(topic, fact)) == fact


@given(st.binary(), st.text(), st.lists(st.tuples(st.text(), st.text())).map(tuple))
def test_bytes_come_back_as_they_were(body: bytes, text: str, headers: tuple[tuple[str, str], ...]) -> None:
    webhook = RawWebhook(webhook_id=text, provider=text, kind=text, received_at=1, headers=headers, body=body)
    assert decode(PROVIDER_WEBHOOKS, encode(PROVIDER_WEBHOOKS, webhook)) == webhook
    dead_letter = DeadLetter(
        source=LogPosition(topic=text, partition=1, offset=2),
        recorded_at=1,
        reason=text,
        error=text,
        role=text,
        key=body,
        value=body,
    )
    assert decode(DEAD_LETTERS, encode(DEAD_LETTERS, dead_letter)) == dead_letter


@given(st.text(string.printable), st.integers())
def test_the_callers_activity_comes_back_byte_for_byte(text: str, number: int) -> None:
    activity = f'{{ "id" : {number},  "x":{json.dumps(text)}, "big": 1234567890123456789012345678901234567890.50 }}'
    raw = msgspec.Raw(activity.encode())
    request = SendRequest(
        email_id=EMAIL_ID,  # type: ignore[arg-type]
        message_id="m",
        tenant="t",
        dialect="fasttrack",
        brand="1",
        recipient="a@example.test",
        recorded_at=1,
        activity=raw,
    )
    assert bytes(decode(SEND_REQUESTS, encode(SEND_REQUESTS, request)).activity) == bytes(raw)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
@given(garbage=st.binary(max_size=60) | st.none())
def test_what_is_no_record_is_refused_and_never_raises_anything_else(topic: Topic, garbage: bytes | None) -> None:
    with pytest.raises(Undecodable, match=topic.name):
        decode(topic, garbage)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b'{"type":"acked/1"}', "missing required field"),
        (b'{"type":"love-letter/1","email_id":"x"}', "Invalid value 'love-letter/1'"),
        (b'{"type":"acked/x","email_id":"x"}', "Invalid value 'acked/x'"),
        (b'{"type":"acked/1","email_id":"x","event_id":"e","occurred_at":"1","recorded_at":1}', r"\$\.occurred_at"),
        (b"[" * 100_000, "provider-acks"),
    ],
)
def test_the_complaint_says_what_and_where(value: bytes, complaint: str) -> None:
    with pytest.raises(Undecodable, match=complaint):
        decode(PROVIDER_ACKS, value)


def _rename(fields: RawFields) -> RawFields:
    fields["code"] = fields.pop("smtp_code")
    return fields


def _fill(fields: RawFields) -> RawFields:
    return fields | {"text": msgspec.Raw(b'"lifted"')}


def test_a_record_of_two_versions_ago_is_lifted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "UPCASTERS", {"acked/-1": _rename, "acked/0": _fill})
    old = {"type": "acked/-1", "email_id": EMAIL_ID, "event_id": "e", "occurred_at": 1, "recorded_at": 2}
    acked = decode(PROVIDER_ACKS, json.dumps(old | {"smtp_code": 250}).encode())
    assert acked == Acked(
        email_id=EMAIL_ID,  # type: ignore[arg-type]
        event_id="e",
        occurred_at=1,
        recorded_at=2,
        code=250,
        text="lifted",
    )


def test_lifting_keeps_a_callers_data_verbatim() -> None:
    old = b'{"type":"send-request/0","activity":{ "id": 1.10,"n":123456789012345678901234567890 }}'
    lifted = upcast(SEND_REQUESTS, old, {"send-request/0": lambda fields: fields})
    assert lifted is not None
    assert b'{ "id": 1.10,"n":123456789012345678901234567890 }' in lifted
    assert b'"send-request/1"' in lifted


def test_an_upcaster_that_fails_makes_the_record_undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "UPCASTERS", {"acked/0": lambda fields: {}})
    with pytest.raises(Undecodable, match="provider-acks"):
        decode(PROVIDER_ACKS, b'{"type":"acked/0"}')


def _kinds(topic: Topic) -> list[type[Record]]:
    return list(getattr(topic.value, "__args__", (topic.value,)))


@pytest.mark.parametrize("kind", [kind for topic in TOPICS for kind in _kinds(topic)], ids=lambda kind: kind.__name__)
def test_todays_bytes_are_readable_for_ever(kind: type[Record]) -> None:
    """A record's first bytes stay here. Whoever changes its fields so that they no longer decode, bumps the version."""
    tag: Any = kind.__struct_config__.tag
    topic = next(topic for topic in TOPICS if kind in _kinds(topic))
    path = GOLDEN / f"{tag.replace('/', '.')}.{topic.wire}"
    record = decode(topic, path.read_bytes())
    assert type(record) is kind
    assert encode(topic, record) == path.read_bytes()


def _golden(kind: type[Record]) -> tuple[Topic, bytes]:
    tag: Any = kind.__struct_config__.tag
    topic = next(topic for topic in TOPICS if kind in _kinds(topic))
    return topic, (GOLDEN / f"{tag.replace('/', '.')}.{topic.wire}").read_bytes()


def _generic(topic: Topic, value: bytes) -> Any:
    return json.loads(value) if topic.wire == "json" else msgspec.msgpack.decode(value)


def _encoded(topic: Topic, value: Any) -> bytes:
    return json.dumps(value).encode() if topic.wire == "json" else msgspec.msgpack.encode(value)


class _Tomorrow:
    """Adds a field that today's classes do not have to every struct in a value, and counts them."""

    def __init__(self) -> None:
        self.structs = 0

    def extend(self, kind: msgspec.inspect.Type, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(kind, msgspec.inspect.UnionType):
            structs = [each for each in kind.types if isinstance(each, msgspec.inspect.StructType)]
            tagged = [each for each in structs if each.tag and each.tag == value.get("type")]
            return self.extend((tagged or structs)[0], value) if structs else value
        if isinstance(kind, msgspec.inspect.StructType):
            return self._extend_struct(kind, value)
        if isinstance(kind, msgspec.inspect.VarTupleType):
            return [self.extend(kind.item_type, item) for item in value]
        if isinstance(kind, msgspec.inspect.DictType):
            return {key: self.extend(kind.value_type, item) for key, item in value.items()}
        return value

    def _extend_struct(self, kind: msgspec.inspect.StructType, value: Any) -> Any:
        self.structs += 1
        if kind.array_like:
            # What was left off the end has its default; the field of tomorrow stands after all of today's.
            values = [self.extend(field.type, item) for field, item in zip(kind.fields, value, strict=False)]
            return [*values, "tomorrow"] if len(values) == len(kind.fields) else values
        fields = {field.encode_name: field.type for field in kind.fields}
        known = {name: self.extend(fields[name], item) if name in fields else item for name, item in value.items()}
        return known | {"field_of_tomorrow": {"a": [1]}}


ALL_KINDS = [kind for topic in TOPICS for kind in _kinds(topic)]


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.__name__)
def test_fields_of_a_newer_version_are_ignored_at_every_level(kind: type[Record]) -> None:
    topic, value = _golden(kind)
    today = _generic(topic, value)
    tomorrow = _Tomorrow()
    extended = tomorrow.extend(msgspec.inspect.type_info(kind), today)
    assert tomorrow.structs >= 1
    assert decode(topic, _encoded(topic, extended)) == decode(topic, _encoded(topic, today))


def test_fields_of_a_newer_version_stay_in_the_bytes_that_are_copied() -> None:
    value = b'{"type":"acked/1","email_id":"x","event_id":"e","occurred_at":1,"recorded_at":1,"new":1}'
    assert bytes(decode_with_raw(PROVIDER_ACKS, value)[1]) == value


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.__name__)
def test_newer_version_is_no_undecodable_record(kind: type[Record]) -> None:
    topic, value = _golden(kind)
    tag: Any = kind.__struct_config__.tag
    newer = tag.replace("/1", "/2")
    with pytest.raises(NewerRecord, match=f"{newer} is newer than {tag}, .*upgrade this process"):
        decode(topic, _encoded(topic, _generic(topic, value) | {"type": newer}))


@pytest.mark.parametrize("inner", ["delivery-event", "email-state", "send-request"])
def test_newer_version_within_a_change_is_found(inner: str) -> None:
    value = (GOLDEN / "email-change.1.json").read_bytes().replace(f"{inner}/1".encode(), f"{inner}/12".encode())
    with pytest.raises(NewerRecord, match=f"{inner}/12 is newer"):
        decode(EMAIL_CHANGES, value)


def test_newer_version_within_a_state_is_found() -> None:
    value = (GOLDEN / "email-state.1.json").read_bytes().replace(b"send-request/1", b"send-request/2")
    with pytest.raises(NewerRecord, match="send-request/2"):
        decode_with_raw(EMAIL_STATES, value)


def test_place_of_a_newer_record_is_told() -> None:
    place = LogPosition(topic="provider-acks", partition=3, offset=17)
    assert str(NewerRecord("acked/2 is newer").at(place)) == "provider-acks/3/17: acked/2 is newer"
