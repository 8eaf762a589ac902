"""Answers to questions about the statistics, made of the sums that were read. Pure; `statistics_queries` makes them.

The sums of all groups add up to the totals.
"""

import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from projections.metric_definitions import (
    COUNT_METRICS,
    DEFINITIONS_VERSION,
    RATE_METRICS,
    TIME_BOUNDS_S,
    TIME_BUCKETS,
    TIME_METRICS,
    RateEstimate,
    count_value,
    estimate_rate,
    histogram_quantile,
)
from projections.statistics import SLOT_MS
from projections.statistics_questions import (
    PERIOD_DIMENSIONS,
    StatisticsDimension,
    StatisticsPeriods,
    StatisticsQuestion,
    StatisticsView,
    periods_of,
)
from topics.record import Millis

MAX_ROWS: Final = 2_000
"""Rows of an answer, at most; a question with more groups is refused, because half an answer has wrong totals."""


class AnswerTooLarge(Exception):
    """The answer would have more rows than allowed."""

    def __init__(self) -> None:
        super().__init__(f"the answer would have more than {MAX_ROWS} rows: ask for less time, or group by less")


class CountFigure(msgspec.Struct, frozen=True):
    """A count, and where the emails behind it are listed."""

    value: int
    emails: str | None = None
    """A path and query of this API; None where its filters can't say what is counted."""


class HistogramBucket(msgspec.Struct, frozen=True):
    """The number of emails that took longer than the bucket before and at most this long."""

    up_to_s: float | None
    """None: no limit."""
    count: int


class TimeFigure(msgspec.Struct, frozen=True):
    """The distribution of a duration."""

    count: int
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    """Quantiles in seconds, interpolated within a bucket; None where there is none or it is over the last bound."""
    histogram: tuple[HistogramBucket, ...]


Figure = CountFigure | RateEstimate | TimeFigure


class StatisticsRow(msgspec.Struct, frozen=True):
    """The figures of one group."""

    group: dict[str, str]
    metrics: dict[str, Any]
    """A :class:`CountFigure`, `RateEstimate` or :class:`TimeFigure` by the metric's name."""


class StatisticsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question."""

    as_of: str
    """Everything up to this moment is counted."""
    read_until: str
    """Under load, some of what came up to this moment is counted as well."""
    complete_from: str | None
    """Before this moment something may be missing: the database is older than its rollups. None: it is complete."""
    definitions: int
    view: StatisticsView
    from_: str = msgspec.field(name="from")
    to: str
    tz: str
    group_by: tuple[StatisticsDimension, ...]
    rows: list[StatisticsRow]
    totals: dict[str, Any]
    """The sums over all rows, as in a row's ``metrics``."""


class GroupSums(msgspec.Struct, frozen=True):
    """The sums of one group: of the counters by name, and of the times by name and bucket."""

    period: int
    """The number of its period, from 1; 0 if the question has no periods."""
    values: tuple[str, ...]
    """The values of the question's other dimensions, in their order."""
    sums: Mapping[str, int]
    times: Mapping[str, Sequence[int]]


class AnswerMoment(msgspec.Struct, frozen=True):
    """The moment up to which an answer's figures know everything."""

    as_of: Millis
    read_until: Millis
    complete_from: Millis = 0


EmailsLink = Callable[[StatisticsQuestion, Mapping[str, str], tuple[Millis, Millis], Millis, str], str | None]
"""A function that returns where the emails behind a count are listed: of a question, a group's values, its time
(half-open), the answer's moment and the count's name."""


def no_link(*_: object) -> None:
    """Return no link."""


def format_moment(at: Millis) -> str:
    """Return a moment in RFC 3339, UTC, with milliseconds."""
    moment = datetime.datetime.fromtimestamp(at / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def needed_columns(question: StatisticsQuestion) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the rollup's counters and times that a question's metrics need, each in a fixed order."""
    counts = {name for name in question.metrics if name in COUNT_METRICS}
    for name in question.metrics:
        if name in RATE_METRICS:
            counts |= {RATE_METRICS[name].numerator, RATE_METRICS[name].denominator}
    columns = {column for name in counts for column in COUNT_METRICS[name].columns}
    return tuple(sorted(columns)), tuple(name for name in TIME_METRICS if name in question.metrics)


def make_answer(
    question: StatisticsQuestion, groups: Iterable[GroupSums], moment: AnswerMoment, link: EmailsLink = no_link
) -> StatisticsAnswer:
    """Return the answer made of the groups' sums. Raise AnswerTooLarge."""
    periods = periods_of(question)
    ordered = sorted(groups, key=lambda group: (group.period, group.values))
    if len(ordered) > MAX_ROWS:
        raise AnswerTooLarge
    rows = []
    for group in ordered:
        labels = _labels(question, periods, group)
        find = functools.partial(link, question, labels, _time_of(question, periods, group.period), moment.as_of)
        rows.append(StatisticsRow(labels, _figures(question, group, find)))
    find_all = functools.partial(link, question, {}, (question.start, question.end), moment.as_of)
    return StatisticsAnswer(
        as_of=format_moment(moment.as_of),
        read_until=format_moment(moment.read_until),
        complete_from=format_moment(moment.complete_from) if moment.complete_from else None,
        definitions=DEFINITIONS_VERSION,
        view=question.view,
        from_=format_moment(question.start),
        to=format_moment(question.end),
        tz=question.zone,
        group_by=question.group_by,
        rows=rows if question.group_by else [],
        totals=_figures(question, _total(ordered), find_all),
    )


def _labels(question: StatisticsQuestion, periods: StatisticsPeriods | None, group: GroupSums) -> dict[str, str]:
    values = iter(group.values)
    return {
        dimension.value: periods.labels[group.period - 1]
        if periods is not None and dimension in PERIOD_DIMENSIONS
        else next(values)
        for dimension in question.group_by
    }


def _time_of(question: StatisticsQuestion, periods: StatisticsPeriods | None, period: int) -> tuple[Millis, Millis]:
    if periods is None:
        return question.start, question.end
    is_last = period == len(periods.slots)
    return periods.slots[period - 1] * SLOT_MS, question.end if is_last else periods.slots[period] * SLOT_MS


def _total(groups: Sequence[GroupSums]) -> GroupSums:
    sums: dict[str, int] = {}
    times: dict[str, list[int]] = {name: [0] * TIME_BUCKETS for name in TIME_METRICS}
    for group in groups:
        for name, number in group.sums.items():
            sums[name] = sums.get(name, 0) + number
        for name, counts in group.times.items():
            times[name] = [a + b for a, b in zip(times[name], counts, strict=True)]
    return GroupSums(0, (), sums, times)


def _figures(question: StatisticsQuestion, group: GroupSums, link: Callable[[str], str | None]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for name in question.metrics:
        if name in COUNT_METRICS:
            figures[name] = CountFigure(count_value(name, group.sums), link(name))
        elif name in RATE_METRICS:
            figures[name] = estimate_rate(name, group.sums)
        else:
            figures[name] = _time_figure(group.times.get(name, [0] * TIME_BUCKETS))
    return figures


def _time_figure(counts: Sequence[int]) -> TimeFigure:
    bounds = (*(float(bound) for bound in TIME_BOUNDS_S), None)
    p50, p90, p99 = (histogram_quantile(counts, quantile) for quantile in (0.5, 0.9, 0.99))
    return TimeFigure(
        sum(counts),
        p50,
        p90,
        p99,
        tuple(HistogramBucket(bound, count) for bound, count in zip(bounds, counts, strict=True)),
    )
