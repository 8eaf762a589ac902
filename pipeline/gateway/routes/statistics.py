"""Serve `/api/v1/statistics`: counts, rates and times of a tenant's emails, and what they mean.

The application includes its router.
"""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from msgspec import Meta

from pipeline.admin import ApiKey
from pipeline.dialects.statistics_links import emails_link
from pipeline.gateway.auth import other_brand
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.state import GatewayState
from projections import statistics_queries
from projections.metric_definitions import (
    COUNT_METRICS,
    DEFAULT_METRICS,
    DEFINITIONS_VERSION,
    METRIC_NAMES,
    RATE_METRICS,
    TIME_METRICS,
    RateEstimate,
)
from projections.statistics_answers import AnswerTooLarge, CountFigure, StatisticsAnswer, TimeFigure
from projections.statistics_questions import (
    FILTER_DIMENSIONS,
    InvalidQuestion,
    StatisticsDimension,
    StatisticsQuestion,
    StatisticsView,
    parse_question,
)


class MetricDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """The meaning of a metric."""

    name: str
    title: str
    meaning: str
    numerator: Annotated[str, Meta(description="Of a rate: the count above the line")] = ""
    denominator: Annotated[str, Meta(description="Of a rate: the count below the line")] = ""
    elsewhere: Annotated[str, Meta(description="Of a rate: who else defines it, and how")] = ""
    enough: Annotated[int, Meta(description="Of a rate: denominators below this are too few to say")] = 0
    thresholds: Annotated[tuple[float, ...], Meta(description="Of a rate: where others act")] = ()


class MetricDefinitions(msgspec.Struct, frozen=True):
    """All metrics of this version."""

    version: Annotated[int, Meta(description="Raised with every change of a definition")]
    counts: list[MetricDefinition]
    rates: list[MetricDefinition]
    times: list[MetricDefinition]


OPENAPI_TYPES: Final = (StatisticsAnswer, CountFigure, RateEstimate, TimeFigure, MetricDefinitions)
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
_TIME: Final = "RFC 3339, a day in the zone `tz`, or milliseconds since 1970; a whole quarter hour."


def _responses(name: str) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {
        200: {"description": "The answer.", "content": {"application/json": {"schema": schema}}},
        400: {"description": "A parameter is invalid; the problem says which.", "content": _PROBLEM},
        401: {"description": "No API key, or one that is unknown, revoked or expired.", "content": _PROBLEM},
        503: {"description": "Postgres does not answer; the request may be sent again.", "content": _PROBLEM},
        504: {"description": "The question takes too long; ask for less time.", "content": _PROBLEM},
    }


_PARAMETERS: Final[dict[str, str]] = {
    "metrics": f"Names, separated by commas: {', '.join(METRIC_NAMES)}. Default: {', '.join(DEFAULT_METRICS)}.",
    "group_by": f"Names, separated by commas: {', '.join(StatisticsDimension)}. At most one of time. Default: none, "
    "only totals.",
    "from": f"{_TIME} Default: seven days before `to`.",
    "to": f"Exclusive. {_TIME} Default: the end of today.",
    "tz": "A time zone's IANA name. Default: UTC.",
    "view": f"`{StatisticsView.COHORT}`: by the time emails were accepted (default). `{StatisticsView.EVENT}`: by the "
    "time of what happened.",
    **{each.value: "Only emails with exactly this value." for each in FILTER_DIMENSIONS},
}
"""The parameters and their meanings. The values are read from the request, so that an unknown one is refused."""
_QUESTION_OPENAPI: Final[dict[str, Any]] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": meaning}
        for name, meaning in _PARAMETERS.items()
    ]
}


def router(state: GatewayState) -> APIRouter:
    """Return the routes below `/api/v1/statistics`."""
    routes = APIRouter(tags=["statistics"], default_response_class=Response)
    Caller = Annotated[ApiKey, Depends(state.authenticate)]  # noqa: N806 - a type

    @routes.get(
        "/api/v1/statistics",
        summary="Count emails and what became of them",
        responses=_responses("StatisticsAnswer"),
        openapi_extra=_QUESTION_OPENAPI,
    )
    async def read_statistics(request: Request, key: Caller) -> Response:
        """Return counts, rates with numerator, denominator and interval, and times, for each group and in total.

        A key for one brand counts that brand's emails. Every metric is defined in
        [Definitions of the metrics](../metrics-definitions.md).
        """
        return await _answer(state, _parse(request, key, state.runtime.clock()))

    @routes.get(
        "/api/v1/statistics/definitions",
        summary="What each metric means",
        responses=_responses("MetricDefinitions"),
    )
    async def read_definitions(_key: Caller) -> Response:
        """Return the definition of every metric, for programs that show figures to people."""
        return _json(DEFINITIONS)

    return routes


async def _answer(state: GatewayState, question: StatisticsQuestion) -> Response:
    async def answer(connection: statistics_queries.Connection) -> StatisticsAnswer:
        return await statistics_queries.answer_question(connection, question, emails_link)

    try:
        return _json(await state.history.read(answer))
    except AnswerTooLarge as error:
        raise HttpProblem(400, str(error), "group_by") from None
    except statistics_queries.StatisticsTimeout as error:
        raise HttpProblem(504, str(error)) from None


def _parse(request: Request, key: ApiKey, now: int) -> StatisticsQuestion:
    """Return the request's question for the key's brand, if it has one. Raise HttpProblem 400, 403."""
    parameters: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in parameters:
            raise HttpProblem(400, "sent more than once", name)
        parameters[name] = value
    try:
        question = parse_question(key.tenant.tenant, parameters, now)
    except InvalidQuestion as error:
        raise HttpProblem(400, str(error), error.parameter) from None
    brand = key.limits.brand
    if not brand:
        return question
    if question.filters.get(StatisticsDimension.BRAND, brand) != brand:
        raise other_brand(key)
    return msgspec.structs.replace(question, filters={**question.filters, StatisticsDimension.BRAND: brand})


def _json(body: StatisticsAnswer | MetricDefinitions) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json", headers={"Cache-Control": "no-store"})


DEFINITIONS: Final = MetricDefinitions(
    version=DEFINITIONS_VERSION,
    counts=[MetricDefinition(each.name, each.title, each.meaning) for each in COUNT_METRICS.values()],
    rates=[
        MetricDefinition(
            each.name,
            each.title,
            each.meaning,
            each.numerator,
            each.denominator,
            each.elsewhere,
            each.enough,
            each.thresholds,
        )
        for each in RATE_METRICS.values()
    ],
    times=[MetricDefinition(each.name, each.title, each.meaning) for each in TIME_METRICS.values()],
)
