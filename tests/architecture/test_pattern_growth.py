"""Every pattern takes time in proportion to its text: a stranger's text must not hold the interpreter's lock."""

import math
import re

import pytest

import pipeline
import projections
import topics
from tests.support.growth import MAX_GROWTH, Found, growth, patterns, worst_growth

PATTERNS = patterns(pipeline, projections, topics)


@pytest.mark.parametrize("found", [pytest.param(one, id=one.where) for one in PATTERNS])
def test_time_is_linear_in_the_text(found: Found) -> None:
    grown, how = worst_growth(found)
    assert grown <= MAX_GROWTH, f"{grown:.1f} times as long for twice the text: {how}"


def test_patterns_of_all_kinds_of_places_are_found() -> None:
    places = {one.where.partition(":")[0].partition("[")[0] for one in PATTERNS}
    assert {
        "pipeline.webhooks.redaction._ENCODED",
        "pipeline.webhooks.bots._REASON_PATTERNS",
        "pipeline.dialects.rql",
        "projections.mail_updates._NUL",
    } <= places
    assert len(PATTERNS) > 150


@pytest.mark.parametrize(
    "slow",
    [
        r"(a+)+$",  # exponential
        r"\s*\w*\s*x",  # cubic
        r"\s*,",  # quadratic: every start reads to the end
        r"a.*b|a",  # each match is short, and each reads to the end
        rb"(?:=\s*)*;",
        r"(?i)exceed\w*(?: +\w+)* +quota",
    ],
)
def test_patterns_that_are_not_linear_are_noticed(slow: str | bytes) -> None:
    assert worst_growth(Found("here", re.compile(slow)))[0] > MAX_GROWTH


@pytest.mark.parametrize("fast", [r"\A\s*,", r"(?<!\S)\S+@\S+", r"[a-z]{1,20}=", r"a.{0,50}b|a", r"\s+"])
def test_linear_patterns_are_accepted(fast: str) -> None:
    assert worst_growth(Found("here", re.compile(fast)))[0] <= MAX_GROWTH


def test_growth_is_measured_for_fast_and_slow_calls() -> None:
    assert 3 < growth(lambda size: [0 for _ in range(size) for _ in range(size)], 500) < 6
    assert growth(lambda size: [0 for _ in range(size)], 50_000) <= MAX_GROWTH
    assert not math.isinf(growth(lambda size: "x" * size, 100_000))
