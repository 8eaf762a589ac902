"""How long an email took from stage to stage, measured from its facts."""

import msgspec
import pytest

from pipeline.project.metrics import ProjectMetrics, stage_durations
from pipeline.worker.fold import evolve
from tests.support.changes import T0, Log, acked, event, request
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import EventKind
from topics.states import EmailState


def recorded(fact: Fact, at: int) -> Fact:
    return msgspec.structs.replace(fact, recorded_at=at)


REQUEST = recorded(request(1), T0)
ACKED = recorded(acked(1, T0), T0 + 200)
DELIVERED = recorded(event(1, EventKind.DELIVERED, T0 + 1_000), T0 + 5_000)
OPENED = recorded(event(1, EventKind.OPENED, T0 + 9_000), T0 + 9_000)
CONVERSION = ConversionResult(
    email_id=REQUEST.email_id,
    event_id="c",
    word=ConversionWord.DELIVERED,
    outcome=ConversionOutcome.DELIVERED,
    occurred_at=T0 + 5_700,
    recorded_at=T0 + 5_700,
    destination="acme/12",
    attempt=1,
    status=200,
)


def folded(*facts: Fact) -> EmailState:
    state = None
    for fact in facts:
        state = evolve(state, fact)
    assert state is not None
    return state


ALL = folded(REQUEST, ACKED, DELIVERED, OPENED, CONVERSION)


@pytest.mark.parametrize(
    ("fact", "stages"),
    [
        (REQUEST, []),
        (ACKED, [("sent", 200)]),
        (DELIVERED, [("event", 4_800)]),
        (OPENED, []),
        (CONVERSION, [("conversion", 700)]),
        (msgspec.structs.replace(CONVERSION, outcome=ConversionOutcome.RETRYING), []),
        (msgspec.structs.replace(CONVERSION, word=ConversionWord.BOUNCE), []),
        (recorded(DELIVERED, T0 + 90_000), []),
    ],
    ids=["request", "ack", "delivery", "open", "conversion", "retry", "word without its event", "repeat"],
)
def test_each_fact_shows_the_stage_that_it_reached(fact: Fact, stages: list[tuple[str, int]]) -> None:
    assert list(stage_durations(ALL, fact)) == stages


def test_fact_without_the_stage_before_shows_nothing() -> None:
    assert list(stage_durations(folded(ACKED), ACKED)) == []
    assert list(stage_durations(folded(DELIVERED), DELIVERED)) == []


def test_unaccounted_emails_stay_shown_until_an_audit_ends_without_them() -> None:
    metrics = ProjectMetrics()

    def shown(name: str = "audit_unaccounted_emails", **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"mailfold_{name}", labels)

    metrics.show_audit({"settled": 7, "in_flight": 2, "dead": 1, "dropped": 0}, 3, T0)
    assert (shown(), shown("audit_emails", fate="accepted"), shown("audit_finished_timestamp_seconds")) == (
        3,
        13,
        T0 / 1000,
    )
    metrics.raise_unaccounted(0)  # the next audit has begun
    assert shown() == 3
    metrics.raise_unaccounted(4)
    assert shown() == 4
    metrics.show_audit({"settled": 13}, 0, T0)
    assert shown() == 0


def test_change_is_observed_with_its_facts_and_the_time_until_it_was_projected() -> None:
    [change] = Log().fold(REQUEST).changes
    metrics = ProjectMetrics()
    metrics.observe_change(change, change.recorded_at + 250)
    assert metrics.registry.get_sample_value("mailfold_stage_seconds_sum", {"stage": "projected"}) == 0.25
