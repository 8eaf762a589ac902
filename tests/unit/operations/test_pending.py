"""The words for an email's status and for what it waits for."""

import datetime as dt
from typing import Any

import msgspec
import pytest

from pipeline.operations.pending import format_duration, format_time, pending_reasons
from projections.history_queries import EmailHistory
from projections.timeline import TimelineFact, in_causal_order
from tests.support.changes import T0, acked, conversion_result, event, request
from tests.support.changes import Log as ChangeLog
from topics.changes import Fact
from topics.conversions import ConversionOutcome, ConversionResult, ConversionWord
from topics.events import EventKind

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)


def job(**changed: Any) -> dict[str, Any]:
    plain = {
        "queue": "emit",
        "seq": 1,
        "name": "delivered",
        "lane": "acme/2",
        "state": "pending",
        "attempts": 2,
        "due_at": NOW + dt.timedelta(minutes=2),
        "created_at": NOW,
        "finished_at": None,
        "last_error": "",
        "paused_at": None,
        "paused_reason": "",
        "open_until": None,
        "is_suspended": False,
    }
    return plain | changed


def story(*facts: Fact, jobs: tuple[dict[str, Any], ...] = (), version: int = 1) -> EmailHistory:
    state = ChangeLog().fold(*facts).changes[0].state
    return EmailHistory(state=state, version=version, since=T0, partition=0, timeline=[], jobs=list(jobs))


DELIVERED = (request(1), event(1, EventKind.DELIVERED, T0))


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (job(), "conversion delivered: attempt 3 due in 2 min 0 s"),
        (job(due_at=NOW), "conversion delivered: attempt 3 due now"),
        (job(last_error="HTTP 500"), "conversion delivered: attempt 3 due in 2 min 0 s; last: HTTP 500"),
        (job(due_at=None), "conversion delivered: behind an earlier one of this email"),
        (job(state="held"), "conversion delivered: held until the log has been read to its end"),
        (
            job(state="attempting"),
            "conversion delivered: attempt 2 is under way, its lease holds until 2026-01-02 03:06:05.000",
        ),
        (job(state="dead"), "conversion delivered: dead after 2 attempts (`mailfold dead replay`)"),
        (
            job(paused_at=NOW, paused_reason="HTTP 401"),
            "conversion delivered: lane acme/2 is paused since 2026-01-02 03:04:05.000: HTTP 401",
        ),
        (
            job(open_until=NOW),
            "conversion delivered: lane acme/2 failed too often, it is tried again at 2026-01-02 03:04:05.000",
        ),
        (job(queue="dispatch", name="send"), "dispatch: attempt 3 due in 2 min 0 s"),
        (
            job(queue="dispatch", name="send", is_suspended=True),
            "dispatch: tenant acme is suspended (`mailfold tenants show`)",
        ),
    ],
)
def test_each_open_job_has_a_reason(one: dict[str, Any], says: str) -> None:
    booked = (job(state="done"),) if one["queue"] == "dispatch" else ()
    assert pending_reasons(story(*DELIVERED, jobs=(one, *booked)), NOW_MS) == [says]


def test_email_without_open_jobs_waits_for_its_status_or_for_nothing() -> None:
    done = (job(state="done"),)
    assert pending_reasons(story(*DELIVERED, jobs=done), NOW_MS) == []
    assert pending_reasons(story(request(1), acked(1, T0)), NOW_MS) == [
        "its provider: handed over, nothing final heard yet"
    ]
    assert "not been handed" in pending_reasons(story(request(1)), NOW_MS)[0]
    assert "its send request" in pending_reasons(story(event(1, EventKind.OPENED, T0)), NOW_MS)[0]
    assert "in no table yet" in pending_reasons(story(request(1), version=0), NOW_MS)[0]


def test_owed_conversion_without_a_job_is_reported() -> None:
    assert pending_reasons(story(*DELIVERED), NOW_MS) == [
        "conversion delivered: owed, and in no job (`mailfold rebuild` books it)"
    ]


def test_effect_is_sorted_after_its_cause() -> None:
    late = msgspec.structs.replace(request(1), recorded_at=T0 + 9000)
    early = conversion_result(1, ConversionWord.OPEN, ConversionOutcome.DELIVERED, T0 + 10)
    facts: list[Fact] = [early, event(1, EventKind.OPENED, T0 + 100), late, acked(1, T0 + 50)]
    order = in_causal_order([TimelineFact(fact, [f"x/0/{nth}"]) for nth, fact in enumerate(facts)])
    assert [type(told_.fact).__name__ for told_ in order] == [
        "SendRequest",
        "Acked",
        "DeliveryEvent",
        "ConversionResult",
    ]
    assert isinstance(order[-1].fact, ConversionResult)


def test_times_and_durations_are_formatted() -> None:
    assert format_time(T0 + 7) == "2023-11-14 22:13:20.007"
    assert format_time(2**62) == str(2**62)
    assert [format_duration(ms) for ms in (0, 1234, 61_000, 3_661_000, 90_000_000)] == [
        "0.0 s",
        "1.2 s",
        "1 min 1 s",
        "1 h 1 min",
        "1 d 1 h",
    ]
