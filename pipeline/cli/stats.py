"""`mailfold stats`: print the figures of `GET /api/v1/statistics` as tables with bars."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli import context
from pipeline.errors import Refused
from projections import statistics_queries
from projections.metric_definitions import COUNT_METRICS, RATE_METRICS, TIME_METRICS, RateEstimate
from projections.statistics_answers import AnswerTooLarge, CountFigure, StatisticsAnswer, TimeFigure
from projections.statistics_questions import PERIOD_DIMENSIONS, InvalidQuestion, StatisticsQuestion, parse_question

app = typer.Typer()
BAR_WIDTH: Final = 30
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


@app.command()
def stats(
    *,
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "default",
    metrics: Annotated[str, typer.Option(help="Names of metrics, separated by commas. [the usual ones]")] = "",
    group_by: Annotated[
        str, typer.Option(help="hour, day, week or month; brand, provider, recipient_domain, …; separated by commas.")
    ] = "day",
    start: Annotated[str, typer.Option("--from", help="A day, or a time in RFC 3339. [seven days before --to]")] = "",
    end: Annotated[str, typer.Option("--to", help="Exclusive. [the end of today]")] = "",
    tz: Annotated[str, typer.Option(help="The time zone whose days are meant, such as Europe/Malta.")] = "UTC",
    view: Annotated[
        str, typer.Option(help="cohort: by the time emails were accepted. event: by the time of what happened.")
    ] = "cohort",
    where: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, such as brand=12; may be given several times.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object, as the API returns it.")] = False,
) -> None:
    """Count emails and what became of them: rates with their interval, times, bars per period.

    docs/reference/metrics-definitions.md says what each figure means.
    """
    parameters = {"metrics": metrics, "group_by": group_by, "from": start, "to": end, "tz": tz, "view": view}
    for condition in where or ():
        name, equals, value = condition.partition("=")
        if not equals or name in parameters:
            raise Refused("must be NAME=VALUE, such as brand=12", "--where")
        parameters[name] = value
    try:
        question = parse_question(tenant, parameters, time.time_ns() // 1_000_000)
        answer = context.run_with_runtime(lambda rt: _answer(rt.pool, question))
    except InvalidQuestion as error:
        raise Refused(str(error), f"--{error.parameter.replace('_', '-')}") from None
    except (AnswerTooLarge, statistics_queries.StatisticsTimeout) as error:
        raise Refused(str(error)) from None
    if json:
        typer.echo(msgspec.json.encode(answer))
    else:
        print_answer(answer)


async def _answer(pool: Any, question: StatisticsQuestion) -> StatisticsAnswer:
    async with pool.connection() as connection:
        return await statistics_queries.answer_question(connection, question)


def print_answer(answer: StatisticsAnswer) -> None:
    """Print the totals, then a row with a bar for each group."""
    console = context.console()
    complete = f"; complete only from {answer.complete_from} on" if answer.complete_from else ""
    console.print(
        escape(f"{answer.from_} to {answer.to}, view {answer.view}, as of {answer.as_of}{complete}"), style="dim"
    )
    totals = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("metric", "total", "", "over time"):
        totals.add_column(name, justify="right" if name == "total" else "left")
    by_period = any(each in PERIOD_DIMENSIONS for each in answer.group_by) and len(answer.group_by) == 1
    for name, figure in answer.totals.items():
        values = [_magnitude(row.metrics[name]) for row in answer.rows] if by_period else []
        totals.add_row(_title(name), _figure_text(figure), _more_text(figure), sparkline(values))
    console.print(totals)
    if answer.rows:
        console.print()
        console.print(_rows_table(answer))


def _rows_table(answer: StatisticsAnswer) -> Table:
    names = list(answer.totals)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for dimension in answer.group_by:
        table.add_column(dimension.value)
    for name in names:
        table.add_column(_title(name), justify="right")
    table.add_column(f"{_title(names[0])}, as a bar")
    most = max((_magnitude(row.metrics[names[0]]) for row in answer.rows), default=0.0)
    for row in answer.rows:
        cells = [escape(value or "(none)") for value in row.group.values()]
        figures = [_figure_text(row.metrics[name]) for name in names]
        table.add_row(*cells, *figures, bar(_magnitude(row.metrics[names[0]]), most))
    return table


def sparkline(values: Sequence[float]) -> str:
    """Return a character for each value, the higher the larger; the lowest is zero."""
    most = max(values, default=0.0)
    if most <= 0:
        return _SPARKS[0] * len(values)
    return "".join(_SPARKS[min(int(max(value, 0) / most * len(_SPARKS)), len(_SPARKS) - 1)] for value in values)


def bar(value: float, most: float, width: int = BAR_WIDTH) -> str:
    """Return a bar whose length is the value's share of the largest one."""
    if most <= 0 or value <= 0:
        return ""
    eighths = max(1, round(value / most * width * len(_EIGHTHS)))
    return "█" * (eighths // len(_EIGHTHS)) + _EIGHTHS[eighths % len(_EIGHTHS)].strip()


def _title(name: str) -> str:
    return (COUNT_METRICS.get(name) or RATE_METRICS.get(name) or TIME_METRICS[name]).title


def _magnitude(figure: Any) -> float:
    """Return the number that stands for a figure in a bar."""
    if isinstance(figure, CountFigure):
        return float(figure.value)
    if isinstance(figure, RateEstimate):
        return figure.rate or 0.0
    return figure.p50_s or 0.0


def _figure_text(figure: Any) -> str:
    if isinstance(figure, CountFigure):
        return f"{figure.value:,}"
    if isinstance(figure, RateEstimate):
        return "–" if figure.rate is None else f"{figure.rate:.2%}" if figure.enough else f"({figure.rate:.1%})"
    return "–" if figure.p50_s is None else f"{figure.p50_s:,.1f} s"


def _more_text(figure: Any) -> str:
    """Return what a rate was computed from, or a time's other quantiles."""
    if isinstance(figure, RateEstimate):
        interval = "" if figure.low is None else f", 95 %: {figure.low:.2%} to {figure.high:.2%}"
        few = "" if figure.enough else "; too few to say"
        return f"{figure.numerator:,} of {figure.denominator:,}{interval}{few}"
    if isinstance(figure, TimeFigure):
        quantiles = (("90 %", figure.p90_s), ("99 %", figure.p99_s))
        return f"median of {figure.count:,}; " + ", ".join(
            f"{name} within {'–' if value is None else f'{value:,.1f} s'}" for name, value in quantiles
        )
    return ""
