"""Links figures of the statistics to the emails behind them. Pure; the statistics routes use it.

A link is given only where the history API's filters say exactly what was counted.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.dialects.api_v1_query import emails_url
from projections.email_facets import EmailFact
from projections.email_listing import EmailFilter
from projections.metric_definitions import COUNT_METRICS
from projections.statistics import OTHER
from projections.statistics_questions import FILTER_DIMENSIONS, StatisticsDimension, StatisticsQuestion, StatisticsView
from topics.events import BounceClass
from topics.ids import brand_uuid
from topics.record import Millis


def emails_link(
    question: StatisticsQuestion, group: Mapping[str, str], time: tuple[Millis, Millis], as_of: Millis, name: str
) -> str | None:
    """Return the path and query that list the emails behind a count; None where no filter says what is counted.

    The history has no filter by the time of a fact, none for `other`, and none for what an email does not have.
    """
    metric = COUNT_METRICS[name]
    if metric.facts is None or question.view is StatisticsView.EVENT:
        return None
    fields: dict[str, Any] = {"accepted_from": time[0], "accepted_to": time[1]}
    for dimension in FILTER_DIMENSIONS:
        value = group.get(dimension, question.filters.get(dimension))
        if value is None:
            continue
        if value in ("", OTHER):
            return None
        if dimension is StatisticsDimension.BRAND:
            fields["brand_uuid"] = brand_uuid(question.tenant, value)
        else:
            fields[dimension.value] = value
    if metric.bounce_class:
        fields["bounce_class"] = BounceClass(metric.bounce_class)
    return emails_url(EmailFilter(facts=tuple(map(EmailFact, metric.facts)), **fields), as_of)
