"""Tests of comparing the figures of two commits."""

from bench import against
from bench.against import Comparison


def test_figures_that_every_run_has_are_compared() -> None:
    theirs = [{"a": 10.0, "b": 1.0}, {"a": 20.0, "b": 0.0}, {"a": 30.0, "b": 1.0}]
    ours = [{"a": 20.0, "b": 1.0, "c": 1.0}, {"a": 20.0, "b": 1.0, "c": 1.0}, {"a": 45.0, "b": 1.0, "c": 1.0}]
    assert against.pair_figures(theirs, ours) == [Comparison("a", (10.0, 20.0, 30.0), (20.0, 20.0, 45.0))]


def test_ratio_is_the_median_of_the_rounds() -> None:
    assert Comparison("a", (10.0, 20.0, 30.0), (20.0, 20.0, 45.0)).ratio == 1.5


def test_figures_are_named_with_their_units() -> None:
    report = {
        "rates": [{"stage": "whole path", "unit": "emails", "per_second": 120.0}],
        "latencies": [{"what": "the same at half load (60 emails/s)", "p50_ms": 150.0, "p99_ms": 500.0}],
        "costs": [{"stage": "whole path", "what": "CPU of emit", "unit": "ms/email", "value": 1.5}],
        "idle_memory": {"rss_mb": 800.0},
    }
    assert against.read_figures(report) == {
        "whole path, emails/s": 120.0,
        "the same at half load, p50 ms": 150.0,
        "the same at half load, p99 ms": 500.0,
        "whole path, CPU of emit, ms/email": 1.5,
        "idle memory, RSS MB": 800.0,
    }


def test_figures_of_a_commit_without_costs_are_read() -> None:
    assert against.read_figures({"rates": [], "latencies": [], "idle_memory": None}) == {}
