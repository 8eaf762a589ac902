"""`mailfold stats` prints an answer as tables with bars, without a database."""

import datetime
from typing import Any

import pytest

from pipeline.cli.stats import bar, print_answer, sparkline
from projections.metric_definitions import TIME_BUCKETS
from projections.statistics_answers import AnswerMoment, GroupSums, make_answer
from projections.statistics_questions import parse_question

NOW = round(datetime.datetime(2026, 11, 27, 16, 40, tzinfo=datetime.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 1, 2, 8], "▁▂▃█"), ([0, 0], "▁▁"), ([], ""), ([5], "█"), ([-1, 7], "▁█")]
)
def test_sparkline_is_as_high_as_its_values(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


@pytest.mark.parametrize(
    ("value", "most", "expected"), [(8, 8, "████"), (4, 8, "██"), (0, 8, ""), (1, 10_000, "▏"), (5, 0, "")]
)
def test_bar_is_as_long_as_its_share(value: float, most: float, expected: str) -> None:
    assert bar(value, most, width=4) == expected


def printed(capsys: pytest.CaptureFixture[str], complete_from: int = 0, **sums: Any) -> str:
    metrics = "accepted,delivery_rate,time_to_deliver"
    question = parse_question("acme", {"metrics": metrics, "group_by": "day", "from": "2026-11-20"}, NOW)
    times = {"time_to_deliver": [4] + [0] * (TIME_BUCKETS - 1)}
    groups = [GroupSums(day, (), {name: day * number for name, number in sums.items()}, times) for day in (1, 2)]
    print_answer(make_answer(question, groups, AnswerMoment(NOW, NOW, complete_from)))
    return capsys.readouterr().out


def test_rate_is_printed_with_what_it_was_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, accepted=100, delivered=90, attempted=100)
    assert "270 of 300, 95 %: 86.08% to 92.91%" in text
    assert "2026-11-20" in text
    assert "▅█" in text
    assert "median of 8; 90 % within 0.9 s" in text


def test_few_emails_are_said_to_be_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert "too few to say" in printed(capsys, accepted=1, delivered=1, attempted=1)


def test_incomplete_figures_are_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "complete only from 2026-11-27" in printed(capsys, NOW, accepted=1)
