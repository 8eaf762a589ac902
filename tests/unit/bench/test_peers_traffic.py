"""The events that the peers get: as many as requested, spread out, some of them repeated, some of them late."""

from collections import Counter

import pytest

from bench.peers.traffic import Shape, traffic
from topics.codec import decode, encode
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS

SHAPE = Shape(events=40_000, emails=10_000)


@pytest.fixture(scope="module")
def events() -> list[DeliveryEvent]:
    return list(traffic(SHAPE))


def test_there_are_so_many_events_of_so_many_emails(events: list[DeliveryEvent]) -> None:
    assert len(events) == SHAPE.events
    assert len({event.email_id for event in events}) == SHAPE.emails


def test_the_same_seed_tells_the_same_and_another_something_else(events: list[DeliveryEvent]) -> None:
    assert list(traffic(SHAPE)) == events
    assert list(traffic(Shape(SHAPE.events, SHAPE.emails, seed=2)))[:10] != events[:10]


def test_one_in_twenty_is_a_repeat_that_differs_in_nothing_but_when_we_heard_it(events: list[DeliveryEvent]) -> None:
    first_seen: dict[str, DeliveryEvent] = {}
    repeats = 0
    for event in events:
        first = first_seen.setdefault(event.event_id, event)
        if first is not event:
            repeats += 1
            names = set(DeliveryEvent.__struct_fields__) - {"recorded_at"}
            assert all(getattr(event, name) == getattr(first, name) for name in names)
            assert event.recorded_at > first.recorded_at
    assert repeats == SHAPE.events // 20


def test_about_one_in_twenty_comes_after_what_it_precedes(events: list[DeliveryEvent]) -> None:
    latest: dict[str, int] = {}
    seen: set[str] = set()
    late = 0
    for event in events:
        if event.occurred_at > event.recorded_at:
            continue  # a clock ahead of ours says nothing about order
        late += event.event_id not in seen and event.occurred_at < latest.get(event.email_id, 0)
        seen.add(event.event_id)
        latest[event.email_id] = max(event.occurred_at, latest.get(event.email_id, 0))
    assert late / SHAPE.events == pytest.approx(0.05, abs=0.02)


def test_an_emails_events_lie_far_apart(events: list[DeliveryEvent]) -> None:
    last: dict[str, int] = {}
    gaps = []
    for number, event in enumerate(events):
        if event.email_id in last:
            gaps.append(number - last[event.email_id])
        last[event.email_id] = number
    assert sorted(gaps)[len(gaps) // 2] > SHAPE.events / 20


def test_each_is_a_record_as_the_codec_knows_it_and_as_large_as_a_providers_are(events: list[DeliveryEvent]) -> None:
    sizes = []
    for event in events[:2_000]:
        value = encode(DELIVERY_EVENTS, event)
        assert decode(DELIVERY_EVENTS, value) == event
        sizes.append(len(value))
    assert 500 < sum(sizes) / len(sizes) < 1_000


def test_most_kinds_of_events_happen(events: list[DeliveryEvent]) -> None:
    kinds = Counter(event.kind for event in events)
    assert len(kinds) >= 10
    assert any(event.machine for event in events)
