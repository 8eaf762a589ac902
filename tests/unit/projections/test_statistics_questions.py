"""Questions about the statistics are parsed, and sums become answers, without a database."""

import datetime
import zoneinfo
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.metric_definitions import TIME_BUCKETS
from projections.statistics import SLOT_MS
from projections.statistics_answers import MAX_ROWS, AnswerMoment, AnswerTooLarge, GroupSums, make_answer
from projections.statistics_questions import (
    MAX_PERIODS,
    InvalidQuestion,
    StatisticsDimension,
    StatisticsQuestion,
    StatisticsView,
    parse_question,
    periods_of,
)

NOW = round(datetime.datetime(2026, 11, 27, 16, 40, tzinfo=datetime.UTC).timestamp() * 1000)


def asked(**parameters: str) -> StatisticsQuestion:
    return parse_question("acme", {name.rstrip("_"): value for name, value in parameters.items()}, NOW)


def millis(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def test_seven_days_to_the_end_of_today_are_asked_about_by_default() -> None:
    question = asked()
    assert (question.start, question.end) == (millis("2026-11-21T00:00Z"), millis("2026-11-28T00:00Z"))
    assert (question.view, question.group_by, question.zone) == (StatisticsView.COHORT, (), "UTC")


def test_days_are_those_of_the_zone() -> None:
    question = asked(from_="2026-11-01", to="2026-11-02", tz="Asia/Kolkata")
    assert question.start == millis("2026-11-01T00:00+05:30")
    assert question.end == millis("2026-11-02T00:00+05:30")


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"metrics": "opens,love"}, "metrics"),
        ({"group_by": "recipient"}, "group_by"),
        ({"group_by": "day,hour"}, "group_by"),
        ({"group_by": "brand,brand"}, "group_by"),
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"tz": "../../etc/passwd"}, "tz"),
        ({"tz": "Europe"}, "tz"),
        ({"view": "both"}, "view"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-11-01T00:00"}, "from"),
        ({"from": "2026-11-01T00:07Z"}, "from"),
        ({"from": "2026-11-02", "to": "2026-11-02"}, "to"),
        ({"from": "0001-01-01"}, "from"),
        ({"from": "0001-01-01T00:00+14:00"}, "from"),
        ({"to": "9999-12-31"}, "to"),
        ({"to": "9" * 30}, "to"),
        ({"metrics": "opens", "view": "event"}, "metrics"),
        ({"brand": "x" * 400}, "brand"),
        ({"brand": "a\0b"}, "brand"),
        ({"colour": "red"}, "colour"),
        ({"group_by": "hour", "from": "2020-01-01", "to": "2026-01-01"}, "group_by"),
    ],
)
def test_what_is_wrong_is_said_with_its_parameter(parameters: Mapping[str, str], where: str) -> None:
    with pytest.raises(InvalidQuestion) as refused:
        parse_question("acme", parameters, NOW)
    assert refused.value.parameter == where


def test_metrics_come_in_one_order_however_they_are_asked() -> None:
    assert asked(metrics="bounce_rate, accepted").metrics == asked(metrics="accepted,bounce_rate").metrics


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"])
@pytest.mark.parametrize("dimension", ["hour", "day", "week", "month"])
def test_periods_cover_the_time_without_gap_or_overlap(zone: str, dimension: str) -> None:
    question = asked(group_by=dimension, from_="2026-03-20", to="2026-04-12", tz=zone)
    periods = periods_of(question)
    assert periods is not None
    assert periods.slots[0] * SLOT_MS == question.start
    assert list(periods.slots) == sorted(set(periods.slots))
    assert len(set(periods.labels)) == len(periods.labels)
    assert periods.index_of(periods.slots[0]) == 1
    assert periods.index_of(question.end // SLOT_MS - 1) == len(periods.slots)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["UTC", "Asia/Kathmandu", "Europe/Malta", "America/Sao_Paulo", "Pacific/Chatham"]),
    st.integers(0, 400 * 96),
)
def test_a_quarter_hour_belongs_to_the_day_that_the_calendar_says(zone: str, quarter: int) -> None:
    question = asked(group_by="day", from_="2025-11-01", to="2026-12-31", tz=zone)
    periods = periods_of(question)
    assert periods is not None
    slot = question.start // SLOT_MS + quarter
    local = datetime.datetime.fromtimestamp(slot * SLOT_MS / 1000, zoneinfo.ZoneInfo(zone))
    assert periods.labels[periods.index_of(slot) - 1] == local.date().isoformat()


def test_day_on_which_clocks_change_has_23_or_25_hours() -> None:
    for day, following, hours in (("2026-03-29", "2026-03-30", 23), ("2026-10-25", "2026-10-26", 25)):
        periods = periods_of(asked(group_by="hour", from_=day, to=following, tz="Europe/Malta"))
        assert periods is not None
        assert len(periods.labels) == hours


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    weeks = periods_of(asked(group_by="week", from_="2026-11-25", to="2026-12-03"))
    months = periods_of(asked(group_by="month", from_="2026-11-25", to="2026-12-03"))
    assert weeks is not None
    assert months is not None
    assert weeks.labels == ("2026-11-23", "2026-11-30")
    assert months.labels == ("2026-11", "2026-12")


def group(period: int, *values: str, **sums: int) -> GroupSums:
    return GroupSums(period, values, sums, {})


def test_totals_are_the_sums_of_the_rows_and_rates_are_made_of_sums() -> None:
    question = asked(metrics="delivered,delivery_rate", group_by="brand,day", from_="2026-11-01", to="2026-11-03")
    groups = [group(2, "b", delivered=90, attempted=100), group(1, "a", delivered=1, attempted=2)]
    answer: Any = msgspec.to_builtins(make_answer(question, groups, AnswerMoment(NOW, NOW)))
    assert [row["group"] for row in answer["rows"]] == [
        {"brand": "a", "day": "2026-11-01"},
        {"brand": "b", "day": "2026-11-02"},
    ]
    assert answer["totals"]["delivered"]["value"] == 91
    rate = answer["totals"]["delivery_rate"]
    assert (rate["numerator"], rate["denominator"], rate["rate"]) == (91, 102, 0.892157)


def test_histograms_add_up() -> None:
    question = asked(metrics="time_to_deliver", group_by="brand")
    one = [1] + [0] * (TIME_BUCKETS - 1)
    groups = [GroupSums(0, (name,), {}, {"time_to_deliver": one}) for name in "ab"]
    figure = make_answer(question, groups, AnswerMoment(NOW, NOW)).totals["time_to_deliver"]
    assert (figure.count, figure.p50_s, figure.histogram[0].count) == (2, 0.5, 2)


def test_answer_says_what_it_knows_of() -> None:
    answer: Any = msgspec.to_builtins(make_answer(asked(), [], AnswerMoment(NOW, NOW + 5, NOW - 1000)))
    assert answer["as_of"] == "2026-11-27T16:40:00.000Z"
    assert answer["read_until"] == "2026-11-27T16:40:00.005Z"
    assert answer["complete_from"] == "2026-11-27T16:39:59.000Z"
    assert answer["from"] == "2026-11-21T00:00:00.000Z"
    assert answer["totals"]["accepted"] == {"value": 0, "emails": None}


def test_too_many_rows_are_refused_and_not_cut() -> None:
    groups = [group(0, f"brand {number}", accepted=1) for number in range(MAX_ROWS + 1)]
    with pytest.raises(AnswerTooLarge):
        make_answer(asked(group_by="brand"), groups, AnswerMoment(NOW, NOW))


def test_link_is_made_for_the_time_and_values_of_the_row() -> None:
    question = asked(metrics="delivered", group_by="day,brand", from_="2026-11-01", to="2026-11-03T12:00Z")
    links = []

    def link(_: StatisticsQuestion, values: Mapping[str, str], time: tuple[int, int], as_of: int, name: str) -> str:
        links.append((dict(values), time, as_of, name))
        return "/x"

    answer = make_answer(question, [group(3, "b", delivered=1)], AnswerMoment(NOW, NOW), link)
    assert answer.rows[0].metrics["delivered"].emails == "/x"
    day = (millis("2026-11-03T00:00Z"), millis("2026-11-03T12:00Z"))
    assert links == [
        ({"day": "2026-11-03", "brand": "b"}, day, NOW, "delivered"),
        ({}, (question.start, question.end), NOW, "delivered"),
    ]


def test_periods_are_bounded() -> None:
    with pytest.raises(InvalidQuestion, match=str(MAX_PERIODS)):
        asked(group_by="hour", from_="2026-01-01", to="2026-05-01")


def test_only_dimensions_of_emails_are_filters() -> None:
    question = asked(brand="b1", recipient_domain="gmail.com")
    assert question.filters == {
        StatisticsDimension.BRAND: "b1",
        StatisticsDimension.RECIPIENT_DOMAIN: "gmail.com",
    }
