"""Questions about the statistics. Pure; the API and commands ask them, `statistics_queries` answers them.

A question sums the rollup's quarter hours into periods of the asker's time zone, and splits the sums by what the emails
have in common.
"""

import datetime
import zoneinfo
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from projections.metric_definitions import (
    COUNT_METRICS,
    DEFAULT_METRICS,
    METRIC_NAMES,
)
from projections.statistics import SLOT_MS
from topics.record import Millis

MAX_PERIODS: Final = 2_000
DEFAULT_PERIOD_DAYS: Final = 7
MAX_FILTER_CHARS: Final = 320


class StatisticsView(StrEnum):
    """The time by which figures are put into periods."""

    COHORT = "cohort"
    """By the time of acceptance: what became of the emails of a period, whenever it happened."""
    EVENT = "event"
    """By the time of the fact: what happened in a period, to whichever emails."""


class StatisticsDimension(StrEnum):
    """A property by which an answer can be split."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    BRAND = "brand"
    DIALECT = "dialect"
    PROVIDER = "provider"
    TEMPLATE = "template"
    RECIPIENT_DOMAIN = "recipient_domain"
    ACTIVITY_ID = "activity_id"
    ACTION_GROUP_ID = "action_group_id"


PERIOD_DIMENSIONS: Final = (
    *(StatisticsDimension.HOUR, StatisticsDimension.DAY),
    *(StatisticsDimension.WEEK, StatisticsDimension.MONTH),
)
"""Dimensions of time; a question has at most one of them. The others can be filtered by, too."""
FILTER_DIMENSIONS: Final = tuple(each for each in StatisticsDimension if each not in PERIOD_DIMENSIONS)


class InvalidQuestion(ValueError):
    """A parameter of a question is wrong."""

    def __init__(self, error: str, parameter: str) -> None:
        super().__init__(error)
        self.parameter = parameter


class StatisticsQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question of one tenant."""

    tenant: str
    metrics: tuple[str, ...]
    start: Millis
    """The beginning of the time that is asked about; a whole quarter hour, as the end."""
    end: Millis
    """Its end, exclusive."""
    group_by: tuple[StatisticsDimension, ...] = ()
    zone: str = "UTC"
    """The IANA name of the time zone whose hours, days, weeks and months are meant."""
    view: StatisticsView = StatisticsView.COHORT
    filters: Mapping[StatisticsDimension, str] = {}

    @property
    def period(self) -> StatisticsDimension | None:
        """Return the dimension of time by which the answer is split."""
        return next((each for each in self.group_by if each in PERIOD_DIMENSIONS), None)


class StatisticsPeriods(msgspec.Struct, frozen=True):
    """The periods of a question's time: the first quarter hours of each, and the labels."""

    slots: tuple[int, ...]
    labels: tuple[str, ...]

    def index_of(self, slot: int) -> int:
        """Return the number, from 1, of the period of a quarter hour, as Postgres' width_bucket does."""
        return bisect_right(self.slots, slot)


def parse_question(tenant: str, parameters: Mapping[str, str], now: Millis) -> StatisticsQuestion:
    """Return the question that these parameters of a URL ask. Raise InvalidQuestion."""
    known = {"metrics", "group_by", "from", "to", "tz", "view", *FILTER_DIMENSIONS}
    for name in parameters:
        if name not in known:
            raise InvalidQuestion(f"no such parameter; there are {', '.join(sorted(known))}", name)
    zone = parameters.get("tz") or "UTC"
    end = _parse_time(parameters, "to", zone)
    if end is None:
        end = _local_midnight(_local(now, zone).date() + datetime.timedelta(days=1), zone)
    start = _parse_time(parameters, "from", zone)
    if start is None:
        start = _local_midnight(_local(end, zone).date() - datetime.timedelta(days=DEFAULT_PERIOD_DAYS), zone)
    question = StatisticsQuestion(
        tenant=tenant,
        metrics=_parse_metrics(parameters.get("metrics", "")),
        group_by=_parse_dimensions(parameters.get("group_by", "")),
        start=start,
        end=end,
        zone=zone,
        view=_parse_view(parameters.get("view", "")),
        filters={each: _filter_value(each, parameters[each]) for each in FILTER_DIMENSIONS if parameters.get(each)},
    )
    check_question(question)
    return question


def check_question(question: StatisticsQuestion) -> None:
    """Raise InvalidQuestion where the parts of a question don't fit."""
    load_zone(question.zone)
    for name, value in (("from", question.start), ("to", question.end)):
        if value % SLOT_MS:
            raise InvalidQuestion("not a whole quarter hour", name)
    if question.start >= question.end:
        raise InvalidQuestion("not after `from`", "to")
    if len([each for each in question.group_by if each in PERIOD_DIMENSIONS]) > 1:
        raise InvalidQuestion("only one of hour, day, week and month", "group_by")
    if len(set(question.group_by)) < len(question.group_by):
        raise InvalidQuestion("the same twice", "group_by")
    of_events = [name for name in question.metrics if name in COUNT_METRICS and COUNT_METRICS[name].is_of_events]
    if of_events and question.view is StatisticsView.EVENT:
        raise InvalidQuestion(f"{of_events[0]} counts events, which only the view `cohort` has", "metrics")
    periods_of(question)


def _parse_metrics(text: str) -> tuple[str, ...]:
    names = _names(text) or DEFAULT_METRICS
    for name in names:
        if name not in METRIC_NAMES:
            raise InvalidQuestion(f"{_shown(name)} is no metric; there are {', '.join(METRIC_NAMES)}", "metrics")
    # In one order, so that two ways to ask the same give the same bytes.
    return tuple(name for name in METRIC_NAMES if name in names)


def _parse_dimensions(text: str) -> tuple[StatisticsDimension, ...]:
    dimensions = []
    for name in _names(text):
        try:
            dimensions.append(StatisticsDimension(name))
        except ValueError:
            error = f"{_shown(name)} is no dimension; there are {', '.join(StatisticsDimension)}"
            raise InvalidQuestion(error, "group_by") from None
    return tuple(dimensions)


def _parse_view(text: str) -> StatisticsView:
    try:
        return StatisticsView(text or StatisticsView.COHORT)
    except ValueError:
        raise InvalidQuestion(f"{_shown(text)} is neither cohort nor event", "view") from None


def _filter_value(dimension: StatisticsDimension, value: str) -> str:
    if len(value) > MAX_FILTER_CHARS or "\0" in value:
        raise InvalidQuestion(f"longer than {MAX_FILTER_CHARS} characters, or with a NUL", dimension)
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shown(text: str) -> str:
    return repr(text[:40])


def _parse_time(parameters: Mapping[str, str], name: str, zone: str) -> Millis | None:
    try:
        day = datetime.date.fromisoformat(parameters.get(name, ""))
    except ValueError:
        return _parse_moment(parameters, name)
    _require_year(day.year, name)
    return _local_midnight(day, zone)


def _parse_moment(parameters: Mapping[str, str], name: str) -> Millis | None:
    text = parameters.get(name, "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        at = int(text[:20])
        _require_year(1970 + at // 31_556_952_000, name)
        return at
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        error = f"{_shown(text)} is neither RFC 3339, nor a day, nor milliseconds since 1970"
        raise InvalidQuestion(error, name) from None
    if moment.tzinfo is None:
        raise InvalidQuestion("without an offset, such as Z or +01:00", name)
    _require_year(moment.year, name)
    return max(0, round(moment.timestamp() * 1000))


_LAST_YEAR: Final = 2999


def _require_year(year: int, parameter: str) -> None:
    if not 1970 <= year <= _LAST_YEAR:
        raise InvalidQuestion(f"not between the years 1970 and {_LAST_YEAR}", parameter)


def load_zone(name: str) -> zoneinfo.ZoneInfo:
    """Return the time zone with this name. Raise InvalidQuestion."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        error = f"{_shown(name)} is no time zone; names are such as UTC and Europe/Malta"
        raise InvalidQuestion(error, "tz") from None


def _local(at: Millis, zone: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at / 1000, load_zone(zone))


def _local_midnight(day: datetime.date, zone: str) -> Millis:
    midnight = datetime.datetime.combine(day, datetime.time(), load_zone(zone))
    return max(0, round(midnight.timestamp() * 1000))


def periods_of(question: StatisticsQuestion) -> StatisticsPeriods | None:
    """Return the periods into which a question splits its time; None if it does not. Raise InvalidQuestion."""
    if question.period is None:
        return None
    starts: list[Millis] = []
    labels: list[str] = []
    first = _local(question.start, question.zone)
    for at, label in _period_starts(first, question.period, question.zone):
        if at >= question.end:
            break
        if len(starts) == MAX_PERIODS:
            raise InvalidQuestion(f"more than {MAX_PERIODS} periods: ask for less time, or longer ones", "group_by")
        starts.append(max(at, question.start))
        labels.append(label)
    if any(at % SLOT_MS for at in starts):
        raise InvalidQuestion("this time zone's days begin within a quarter hour at that time", "tz")
    return StatisticsPeriods(tuple(at // SLOT_MS for at in starts), tuple(labels))


def _period_starts(first: datetime.datetime, period: StatisticsDimension, zone: str) -> Iterable[tuple[Millis, str]]:
    """Yield the start and label of the period that ``first`` is in, and of all that follow."""
    if period is StatisticsDimension.HOUR:
        # The hours of the clock on the wall: where the clock is set back, one of them comes twice.
        at = round(first.timestamp()) - (first.minute * 60 + first.second)
        while True:
            local = datetime.datetime.fromtimestamp(at, first.tzinfo)
            yield at * 1000, local.isoformat()
            at += 3600
    day = first.date()
    if period is StatisticsDimension.WEEK:
        day -= datetime.timedelta(days=day.weekday())
    elif period is StatisticsDimension.MONTH:
        day = day.replace(day=1)
    while True:
        yield (
            _local_midnight(day, zone),
            day.isoformat()[:7] if period is StatisticsDimension.MONTH else day.isoformat(),
        )
        day = _next_day(day, period)


def _next_day(day: datetime.date, period: StatisticsDimension) -> datetime.date:
    if period is StatisticsDimension.MONTH:
        return (day + datetime.timedelta(days=31)).replace(day=1)
    return day + datetime.timedelta(days=7 if period is StatisticsDimension.WEEK else 1)
