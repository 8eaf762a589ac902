"""Tests of what the bench computes from counters."""

import pytest

from bench.costs import LOAD, Usage, cpu_costs, pace_with_costs, usage_costs
from bench.figures import Cost


def test_cpu_is_given_per_unit_with_our_roles_first_and_summed() -> None:
    before = {LOAD: 1.0, "postgres": 2.0, "emit": 0.5, "dispatch": 1.0}
    after = {LOAD: 2.0, "postgres": 2.5, "emit": 0.6, "dispatch": 1.3, "kafka": 0.1}
    assert [(cost.what, round(cost.value, 6)) for cost in cpu_costs("whole", before, after, 100, "email")] == [
        ("CPU of dispatch", 3.0),
        ("CPU of emit", 1.0),
        ("CPU of our roles", 4.0),
        ("CPU of kafka", 1.0),
        (f"CPU of {LOAD}", 10.0),
        ("CPU of postgres", 5.0),
    ]


def test_usage_is_the_difference_of_counters_per_unit() -> None:
    before = Usage({}, {"Postgres WAL": 100.0}, {"a": 5.0, "b": 5.0}, {"a": 50.0, "": 10.0})
    after = Usage({}, {"Postgres WAL": 300.0}, {"a": 9.0, "b": 5.0}, {"a": 90.0, "": 20.0})
    assert usage_costs("whole", before, after, 2, "email") == [
        Cost("whole", "records on the log", "records/email", 2.0),
        Cost("whole", "bytes on the log", "bytes/email", 25.0),
        Cost("whole", "bytes of a", "bytes/email", 20.0),
        Cost("whole", "Postgres WAL", "bytes/email", 100.0),
    ]


async def test_costs_leave_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([{"emit": 9.0}, {"emit": 9.4}])
    monkeypatch.setattr("bench.costs.read_cpu", lambda: next(readings))
    done = iter([0, 0, 60, 80, 100])

    async def progress() -> int:
        return next(done)

    _, [cost] = await pace_with_costs(progress, 100, 5.0, stage="emit", unit="conversion")
    assert (cost.what, cost.unit, round(cost.value, 6)) == ("CPU of emit", "ms/conversion", 10.0)
