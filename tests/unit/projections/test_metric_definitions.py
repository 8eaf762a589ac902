"""Each metric is defined once, and the reference says what the code does."""

from pathlib import Path

import pytest

from projections.metric_definitions import (
    COUNT_METRICS,
    COUNTERS,
    METRIC_NAMES,
    RATE_METRICS,
    TIME_BOUNDS_S,
    TIME_BUCKETS,
    TIME_METRICS,
    estimate_rate,
    histogram_quantile,
    time_bucket,
    wilson_interval,
)

PAGE = Path(__file__).parents[3] / "docs/reference/metrics-definitions.md"


def test_every_counter_belongs_to_a_metric_and_every_metric_has_one_name() -> None:
    assert {column for metric in COUNT_METRICS.values() for column in metric.columns} == set(COUNTERS)
    assert len(set(METRIC_NAMES)) == len(METRIC_NAMES)
    for rate in RATE_METRICS.values():
        assert {rate.numerator, rate.denominator} <= COUNT_METRICS.keys()


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_page_defines_each_metric_as_the_code_does(name: str) -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    if name in RATE_METRICS:
        rate = RATE_METRICS[name]
        assert f"| `{name}` | `{rate.numerator}` / `{rate.denominator}` | {rate.enough:,} | {rate.elsewhere} |" in page
    else:
        meaning = (COUNT_METRICS.get(name) or TIME_METRICS[name]).meaning
        assert f"| `{name}` | {meaning} |" in page


def test_page_has_the_bounds_of_the_times() -> None:
    assert ", ".join(f"{bound:,}" for bound in TIME_BOUNDS_S) in PAGE.read_text(encoding="utf-8")


def test_rate_carries_what_it_was_computed_from() -> None:
    rate = estimate_rate("complaint_rate", {"complained": 3, "delivered": 2000})
    assert (rate.numerator, rate.denominator, rate.rate, rate.enough) == (3, 2000, 0.0015, True)
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < 0.0015 < rate.high


def test_few_emails_are_said_to_be_too_few() -> None:
    assert not estimate_rate("complaint_rate", {"complained": 1, "delivered": 999}).enough
    assert not estimate_rate("delivery_rate", {"delivered": 99, "attempted": 99}).enough
    assert estimate_rate("delivery_rate", {"delivered": 99, "attempted": 100}).enough


def test_nothing_has_no_rate() -> None:
    rate = estimate_rate("delivery_rate", {})
    assert (rate.rate, rate.low, rate.high, rate.enough) == (None, None, None, False)


def test_more_opens_than_deliveries_have_a_rate_and_no_interval() -> None:
    rate = estimate_rate("open_rate", {"opened_human": 3, "delivered": 2})
    assert (rate.rate, rate.low, rate.high) == (1.5, None, None)


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    # From R: binom::binom.wilson.
    [(10, 100, (0.0552291, 0.1743657)), (0, 10, (0.0, 0.2775328)), (10, 10, (0.7224672, 1.0))],
)
def test_interval_is_wilsons(successes: int, trials: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-6)


def test_durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() -> None:
    assert [time_bucket(ms) for ms in (-5, 0, 1_000, 1_001, 604_800_000, 604_800_001)] == [0, 0, 0, 1, 11, 12]


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    counts = [0] * TIME_BUCKETS
    counts[3] = 4  # 15 to 60 s
    assert histogram_quantile(counts, 0.5) == 37.5
    assert histogram_quantile([0] * TIME_BUCKETS, 0.5) is None


def test_quantile_over_the_last_bound_is_unknown() -> None:
    counts = [0] * TIME_BUCKETS
    counts[0], counts[-1] = 1, 9
    assert histogram_quantile(counts, 0.9) is None
    assert histogram_quantile(counts, 0.1) == 1.0
