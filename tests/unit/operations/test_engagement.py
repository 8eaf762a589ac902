"""Opens and clicks that look like a robot's: they are counted separately, and change no conversion."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.operations.engagement import EngagementCount, engagement_counts, suspected_machines
from pipeline.operations.trace import trace_of
from pipeline.worker.fold import evolve
from projections.history_queries import EmailHistory
from projections.timeline import TimelineFact
from tests.support.changes import T0, acked, event, request
from topics.changes import Fact
from topics.events import DeliveryEvent, EventKind
from topics.readings import email_status, owed_words
from topics.states import EmailState

DELIVERED = event(1, EventKind.DELIVERED, T0)


def click(nth: int, at: int, url: str = "https://example.com/", **more: Any) -> DeliveryEvent:
    clicked = event(1, EventKind.CLICKED, at, nth=nth)
    return msgspec.structs.replace(clicked, url=url, **{"user_agent": "Mail/16.0", **more})


def opened(nth: int, at: int, **more: Any) -> DeliveryEvent:
    return msgspec.structs.replace(event(1, EventKind.OPENED, at, nth=nth), **{"user_agent": "Mail/16.0", **more})


def why(*facts: Fact) -> list[tuple[int, str]]:
    """Of each click and open, in order: why it looks like a robot's."""
    suspected = suspected_machines(facts)
    heard = [fact for fact in facts if isinstance(fact, DeliveryEvent) and fact.event_id in suspected]
    return [(int(fact.event_id.rpartition(":")[2]), suspected[fact.event_id]) for fact in heard]


def test_click_within_seconds_of_the_delivery_is_suspected() -> None:
    at_once, later = click(1, T0 + 4_000), click(2, T0 + 60_000)
    assert why(DELIVERED, at_once, later) == [(1, "seconds-after-delivery")]
    assert why(at_once, later, DELIVERED) == [(1, "seconds-after-delivery")]


def test_open_within_seconds_of_the_delivery_is_not_suspected() -> None:
    assert why(DELIVERED, opened(1, T0 + 1_000)) == []


def test_ack_counts_as_delivery_if_none_was_reported() -> None:
    assert why(acked(1, T0), click(1, T0 + 1_000)) == [(1, "seconds-after-delivery")]
    assert why(acked(1, T0), event(1, EventKind.DELIVERED, T0 + 600_000), click(1, T0 + 1_000)) == []


def test_delivery_time_in_the_future_is_limited_to_our_clock() -> None:
    ahead = msgspec.structs.replace(DELIVERED, occurred_at=T0 + 86_400_000, recorded_at=T0)
    assert why(ahead, click(1, T0 + 1_000)) == [(1, "seconds-after-delivery")]


def test_click_is_not_suspected_without_a_delivery() -> None:
    assert why(request(1), click(1, T0 + 1)) == []


def test_clicks_on_many_links_at_once_are_suspected() -> None:
    three = [click(number, T0 + 60_000 + 900 * number, f"https://example.com/{number}") for number in range(3)]
    late_click = click(9, T0 + 90_000)
    assert why(DELIVERED, *three, late_click) == [(number, "every-link-at-once") for number in range(3)]
    assert why(DELIVERED, *three[:2], late_click) == []


def test_repeated_clicks_on_one_link_are_not_suspected() -> None:
    assert why(DELIVERED, *[click(number, T0 + 60_000 + 100 * number) for number in range(9)]) == []


def test_events_of_the_traps_client_are_suspected_for_a_minute() -> None:
    trap = click(0, T0 + 60_000, "", machine="trap-link", user_agent="Chrome/1")
    same, other, much_later = (
        click(1, T0 + 61_000, user_agent="Chrome/1"),
        click(2, T0 + 61_000, user_agent="Safari/1"),
        opened(3, T0 + 600_000, user_agent="Chrome/1"),
    )
    assert why(DELIVERED, trap, same, other, much_later) == [(1, "by-who-followed-the-trap")]


def test_labelled_machine_is_not_suspected() -> None:
    assert why(DELIVERED, click(1, T0 + 1_000, machine="crawler")) == []


def test_raw_and_human_events_are_counted() -> None:
    facts = [
        DELIVERED,
        opened(1, T0 + 50_000),
        opened(2, T0 + 51_000, machine="apple-mail-privacy"),
        opened(1, T0 + 50_000),
        click(1, T0 + 1_000),
        click(2, T0 + 60_000),
        click(3, T0 + 61_000, machine="crawler"),
        click(4, T0 + 62_000, machine="crawler"),
    ]
    assert engagement_counts(facts) == [
        EngagementCount(EventKind.OPENED, 2, 1, {"apple-mail-privacy": 1}),
        EngagementCount(EventKind.CLICKED, 4, 1, {"crawler": 2, "seconds-after-delivery": 1}),
    ]
    assert engagement_counts([DELIVERED]) == []


def test_trace_names_the_reason_of_a_suspected_event() -> None:
    facts: list[Fact] = [request(1), DELIVERED, click(1, T0 + 1_000), click(2, T0 + 60_000)]
    timeline = [TimelineFact(fact, [f"facts/0/{nth}"]) for nth, fact in enumerate(facts)]
    told = trace_of(EmailHistory(folded(facts), 1, T0, 0, timeline, []), T0 + 100_000)
    lines = {line.places[0]: line for line in told.lines}
    assert lines["facts/0/2"].what == "clicked"
    assert "not counted as a human's: seconds-after-delivery" in lines["facts/0/2"].details
    assert "not counted" not in lines["facts/0/3"].details
    assert told.counts == [EngagementCount(EventKind.CLICKED, 2, 1, {"seconds-after-delivery": 1})]


def folded(facts: list[Fact]) -> EmailState:
    state: EmailState | None = None
    for fact in facts:
        state = evolve(state, fact)
    assert state is not None
    return state


heard = st.builds(
    click,
    st.integers(0, 9),
    st.integers(T0 - 10_000, T0 + 200_000),
    st.sampled_from([f"https://example.com/{number}" for number in range(4)]),
    machine=st.sampled_from(["", "", "trap-link", "crawler"]),
    user_agent=st.sampled_from(["a", "b"]),
) | st.builds(opened, st.integers(10, 19), st.integers(T0, T0 + 200_000), machine=st.sampled_from(["", "prefetch"]))


@given(st.lists(heard, max_size=12, unique_by=lambda one: one.event_id), st.integers(10**6, 10**9))
def test_no_conversion_and_no_status_depends_on_circumstances(events: list[DeliveryEvent], apart: int) -> None:
    """The same events, once as they are and once so far apart that nothing looks like a robot's."""
    spread = [
        msgspec.structs.replace(
            one, occurred_at=T0 + apart * (nth + 1), recorded_at=T0 + apart * (nth + 1), user_agent=str(nth)
        )
        for nth, one in enumerate(events)
    ]
    assert suspected_machines([DELIVERED, *spread]) == {}
    suspicious, clear = folded([request(1), DELIVERED, *events]), folded([request(1), DELIVERED, *spread])
    assert owed_words(suspicious) == owed_words(clear)
    assert email_status(suspicious) == email_status(clear)


@given(st.permutations([DELIVERED, *[click(n, T0 + n * 1_100, f"https://example.com/{n}") for n in range(7)]]))
def test_the_order_in_which_facts_come_does_not_matter(facts: list[Fact]) -> None:
    assert suspected_machines(facts) == suspected_machines(sorted(facts, key=lambda fact: fact.recorded_at))
    assert set(suspected_machines(facts).values()) == {"every-link-at-once"}


@given(st.lists(heard, max_size=12))
def test_every_event_is_human_or_has_one_reason(events: list[DeliveryEvent]) -> None:
    for count in engagement_counts([DELIVERED, *events]):
        assert count.raw == count.human + sum(count.machines.values())
