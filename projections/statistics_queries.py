"""Answers questions about the statistics from the rollups, or as of a past moment from the emails' versions.

The API, the console and `mailfold stats` call it with a connection, which it leaves without a transaction.
"""

from typing import Any, Final

import psycopg
from psycopg import sql

from projections.history_queries import begin_snapshot, latest_projected_time, partition_times
from projections.metric_definitions import TIME_BUCKETS
from projections.statistics import SLOT_MS
from projections.statistics_answers import (
    MAX_ROWS,
    AnswerMoment,
    AnswerTooLarge,
    EmailsLink,
    GroupSums,
    StatisticsAnswer,
    make_answer,
    needed_columns,
    no_link,
)
from projections.statistics_questions import (
    PERIOD_DIMENSIONS,
    StatisticsDimension,
    StatisticsPeriods,
    StatisticsQuestion,
    StatisticsView,
    periods_of,
)
from projections.statistics_rows import SQL
from projections.text import storable_text

STATEMENT_TIMEOUT: Final = "5s"
Connection = psycopg.AsyncConnection[Any]


class StatisticsTimeout(Exception):
    """Postgres took too long for a question."""

    def __init__(self) -> None:
        super().__init__(f"this takes longer than {STATEMENT_TIMEOUT}: ask for less time, or group by less")


async def answer_question(
    connection: Connection, question: StatisticsQuestion, link: EmailsLink = no_link
) -> StatisticsAnswer:
    """Return the answer, all of one snapshot. Raise AnswerTooLarge, StatisticsTimeout."""
    try:
        async with connection.transaction():
            await begin_snapshot(connection)
            await connection.execute(SQL["limit_time"], {"timeout": STATEMENT_TIMEOUT})
            moment = await _read_moment(connection)
            groups = await _read_groups(connection, question)
    except psycopg.errors.QueryCanceled:
        raise StatisticsTimeout from None
    return make_answer(question, groups, moment, link)


async def _read_moment(connection: Connection) -> AnswerMoment:
    as_of = max(0, await latest_projected_time(connection))
    read_until = max((through for _, through, _ in await partition_times(connection)), default=0)
    row = await (await connection.execute(SQL["complete_from"])).fetchone()
    return AnswerMoment(as_of, max(as_of, read_until), 0 if row is None else int(row[0]))


async def _read_groups(connection: Connection, question: StatisticsQuestion) -> list[GroupSums]:
    periods = periods_of(question)
    query, values = _compose(question, periods)
    rows = await (await connection.execute(query, values, prepare=False)).fetchall()
    if len(rows) > MAX_ROWS:
        raise AnswerTooLarge
    counters, times = needed_columns(question)
    first = 1 + len(_value_dimensions(question))
    groups = []
    for row in rows:
        numbers = row[first:]
        buckets = {
            name: [int(count) for count in numbers[at : at + TIME_BUCKETS]]
            for name, at in zip(times, range(len(counters), len(numbers), TIME_BUCKETS), strict=True)
        }
        sums = {name: int(number) for name, number in zip(counters, numbers, strict=False)}
        groups.append(GroupSums(row[0], tuple(row[1:first]), sums, buckets))
    return [group for group in groups if any(group.sums.values()) or any(map(any, group.times.values()))]


def _compose(question: StatisticsQuestion, periods: StatisticsPeriods | None) -> tuple[sql.Composed, dict[str, Any]]:
    """Return the query of the sums and its parameters; only names from our own enumerations become a part of it."""
    counters, times = needed_columns(question)
    dimensions = _value_dimensions(question)
    period = sql.SQL("0" if periods is None else "width_bucket(s.slot, %(starts)s::integer[])")
    sums = [sql.SQL("sum({})").format(sql.Identifier("s", name)) for name in counters]
    sums += [
        sql.SQL("coalesce(sum({}[{}]), 0)").format(sql.Identifier("s", name), sql.Literal(bucket + 1))
        for name in times
        for bucket in range(TIME_BUCKETS)
    ]
    filters = [
        sql.SQL("and {} = {}").format(_column(dimension), sql.Placeholder(dimension.value))
        for dimension in question.filters
    ]
    query = sql.SQL(SQL["sums"]).format(
        columns=sql.SQL(", ").join([period, *map(_column, dimensions), *sums]),
        filters=sql.SQL(" ").join(filters),
        keys=sql.SQL(", ").join([sql.Literal(nth + 1) for nth in range(1 + len(dimensions))]),
    )
    values: dict[str, Any] = {
        "tenant": question.tenant,
        "by_event": question.view is StatisticsView.EVENT,
        "first": question.start // SLOT_MS,
        "end": question.end // SLOT_MS,
        "limit": MAX_ROWS + 1,
        **{dimension.value: storable_text(value) for dimension, value in question.filters.items()},
    }
    if periods is not None:
        values["starts"] = list(periods.slots)
    return query, values


def _column(dimension: StatisticsDimension) -> sql.Identifier:
    return sql.Identifier("s" if dimension is StatisticsDimension.PROVIDER else "g", dimension.value)


def _value_dimensions(question: StatisticsQuestion) -> tuple[StatisticsDimension, ...]:
    """Return the dimensions by which a question groups, without the one of time."""
    return tuple(each for each in question.group_by if each not in PERIOD_DIMENSIONS)
