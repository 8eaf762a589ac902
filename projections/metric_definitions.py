"""Defines every metric of the statistics once: counts, rates with numerator and denominator, times. Pure.

The projector counts by these names, queries sum them, the API and the commands print them, and the reference is checked
against them (docs/reference/metrics-definitions.md).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

DEFINITIONS_VERSION: Final = 1
"""Raised with every change of a definition: a figure of another version is another figure."""

COUNTERS: Final = (
    *("accepted", "attempted", "sent", "deferred", "delivered", "dropped", "failed"),
    *("bounced_hard", "bounced_soft", "bounced_block", "complained", "unsubscribed"),
    *("opened_human", "opened_machine", "opened", "clicked_human", "clicked_machine", "clicked"),
    *("opens_human", "opens_machine", "clicks_human", "clicks_machine"),
    *("conversions_owed", "conversions_told", "conversions_refused", "conversions_dead"),
)
"""The columns of the rollup, in order. They are stored: a new one is added at the end, with a migration."""

TIME_BOUNDS_S: Final = (1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800)
"""Upper bounds in seconds of the times' histograms; what took longer is in one more bucket. They are stored."""
TIME_BUCKETS: Final = len(TIME_BOUNDS_S) + 1

CONFIDENCE_Z: Final = 1.959963984540054
"""The quantile of the normal distribution for an interval of 95 %."""
DEFAULT_ENOUGH: Final = 100


class CountMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A number of emails, of events or of conversions."""

    name: str
    title: str
    meaning: str
    columns: tuple[str, ...] = ()
    """The columns of the rollup of which it is the sum."""
    facts: tuple[str, ...] | None = None
    """The facts by which the history API finds exactly these emails; None if its filters can't say it."""
    bounce_class: str | None = None
    """The class of bounces by which the history API finds them, beside the facts."""
    is_of_events: bool = False
    """True if it counts events instead of emails. Their times are not kept, so the event view does not have it."""


class RateMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A share, with the names of the counts it is made of."""

    name: str
    title: str
    meaning: str
    numerator: str
    denominator: str
    elsewhere: str
    """Definitions of others."""
    enough: int = DEFAULT_ENOUGH
    """Denominators below this are too few to say anything."""
    thresholds: tuple[float, ...] = ()
    """Rates at which others act, in ascending order."""


class TimeMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A time between the acceptance of an email and a fact about it."""

    name: str
    title: str
    meaning: str
    fact: str
    """The state's mark whose first time ends it."""


class RateEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """A rate with what it was computed from and its 95 % interval (Wilson)."""

    numerator: int
    denominator: int
    rate: float | None
    """None where the denominator is 0."""
    low: float | None
    high: float | None
    """The interval; None where the numerator is not a part of the denominator, such as opens without a delivery."""
    enough: bool
    """False: too few to say."""


def _count(name: str, title: str, meaning: str, *columns: str, **more: object) -> tuple[str, CountMetric]:
    fields = {"name": name, "title": title, "meaning": meaning, "columns": columns or (name,), **more}
    return name, msgspec.convert(fields, CountMetric)


COUNT_METRICS: Final[Mapping[str, CountMetric]] = dict(
    (
        _count("accepted", "Accepted", "Emails whose send request was accepted.", facts=()),
        _count(
            "attempted",
            "Attempted",
            "Emails that were handed to a provider at least once, whatever it answered: those with any fact that only "
            "an attempt causes.",
        ),
        _count("sent", "Sent", "Emails of which a provider or the first relay took custody."),
        _count("deferred", "Deferred", "Emails that were deferred at least once, by us or by the provider."),
        _count("delivered", "Delivered", "Emails reported as delivered, also those that bounced afterwards.",
               facts=("delivered",)),
        _count("dropped", "Dropped", "Emails that were not sent because of a suppression or a provider's policy.",
               facts=("dropped",)),
        _count("failed", "Failed", "Emails that could not be sent: refused content, or given up after deferrals.",
               facts=("failed",)),
        _count("bounced", "Bounced", "Emails that the recipient's server refused for good: hard and soft.",
               "bounced_hard", "bounced_soft", facts=("bounced",)),
        _count("bounced_hard", "Hard bounces", "Bounced emails whose address will never work.",
               facts=("bounced",), bounce_class="hard"),
        _count("bounced_soft", "Soft bounces", "Bounced emails whose address may work later, blocks included.",
               facts=("bounced",), bounce_class="soft"),
        _count("bounced_block", "Blocks", "Soft bounces by policy or reputation: the provider's own word is block, or "
               "the enhanced status code is x.7.x (RFC 3463)."),
        _count("complained", "Complaints", "Emails that their recipient reported as spam.", facts=("complained",)),
        _count("unsubscribed", "Unsubscribes", "Emails through which their recipient unsubscribed.",
               facts=("unsubscribed",)),
        _count("opened_human", "Opened by people", "Emails that a person opened.", facts=("opened",)),
        _count("opened_machine", "Opened by machines", "Emails that a proxy, scanner or prefetcher opened.",
               facts=("opened_machine",)),
        _count("opened", "Opened", "Emails that a person or a machine opened."),
        _count("clicked_human", "Clicked by people", "Emails in which a person followed a link.", facts=("clicked",)),
        _count("clicked_machine", "Clicked by machines", "Emails in which a scanner followed a link.",
               facts=("clicked_machine",)),
        _count("clicked", "Clicked", "Emails in which a person or a machine followed a link."),
        _count("opens_human", "Opens by people", "Distinct opens by people, at most 32 of one email.",
               is_of_events=True),
        _count("opens_machine", "Opens by machines", "Distinct opens by machines, at most 32 of one email.",
               is_of_events=True),
        _count("opens", "Opens", "All distinct opens: by people and by machines.", "opens_human", "opens_machine",
               is_of_events=True),
        _count("clicks_human", "Clicks by people", "Distinct clicks by people, at most 32 of one email.",
               is_of_events=True),
        _count("clicks_machine", "Clicks by machines", "Distinct clicks by machines, at most 32 of one email.",
               is_of_events=True),
        _count("clicks", "Clicks", "All distinct clicks: by people and by machines.", "clicks_human", "clicks_machine",
               is_of_events=True),
        _count("conversions_owed", "Conversions owed", "Fast Track conversions that the facts support, one per email "
               "and word, whether or not the brand has a destination."),
        _count("conversions_told", "Conversions told", "Conversions that Fast Track took."),
        _count("conversions_refused", "Conversions refused", "Conversions that Fast Track refused for good."),
        _count("conversions_dead", "Conversions given up", "Conversions that became dead letters and were not replayed "
               "with success."),
    )
)  # fmt: skip

RATE_METRICS: Final[Mapping[str, RateMetric]] = {
    rate.name: rate
    for rate in (
        RateMetric(
            name="delivery_rate",
            title="Delivery rate",
            meaning="Of the emails that were attempted, those reported as delivered.",
            numerator="delivered",
            denominator="attempted",
            elsewhere="SES: deliveries / sends. SendGrid: delivered / requests. SparkPost: accepted / sent. Postmark "
            "has no such rate: it shows sent and bounced.",
        ),
        RateMetric(
            name="bounce_rate",
            title="Bounce rate",
            meaning="Of the emails that were attempted, those that bounced.",
            numerator="bounced",
            denominator="attempted",
            elsewhere="SendGrid: bounces / requests, blocks apart. SparkPost: bounces / targeted. "
            "Postmark: bounces / sent.",
        ),
        RateMetric(
            name="hard_bounce_rate",
            title="Hard bounce rate",
            meaning="Of the emails that were attempted, those whose address will never work.",
            numerator="bounced_hard",
            denominator="attempted",
            elsewhere="SES: hard bounces to domains that are not verified / sends; a review from 5 %, a pause from "
            "10 %. SparkPost: hard bounces / targeted.",
            thresholds=(0.05, 0.1),
        ),
        RateMetric(
            name="block_rate",
            title="Block rate",
            meaning="Of the emails that were attempted, those that were refused by policy or reputation.",
            numerator="bounced_block",
            denominator="attempted",
            elsewhere="SendGrid: blocks / requests. SparkPost: block bounces / targeted.",
        ),
        RateMetric(
            name="complaint_rate",
            title="Complaint rate",
            meaning="Of the emails that were delivered, those reported as spam.",
            numerator="complained",
            denominator="delivered",
            elsewhere="Google Postmaster Tools: reports / emails in the inbox of active users, per day; below 0.1 %, "
            "never 0.3 %. SES: complaints / deliveries to domains that report them. SparkPost: complaints / accepted. "
            "SendGrid: spam reports / delivered. Postmark: complaints / sent.",
            enough=1_000,
            thresholds=(0.001, 0.003),
        ),
        RateMetric(
            name="unsubscribe_rate",
            title="Unsubscribe rate",
            meaning="Of the emails that were delivered, those through which somebody unsubscribed.",
            numerator="unsubscribed",
            denominator="delivered",
            elsewhere="SendGrid: unsubscribes / delivered. SparkPost: unsubscribes / accepted.",
        ),
        RateMetric(
            name="open_rate",
            title="Open rate",
            meaning="Of the emails that were delivered, those that a person opened.",
            numerator="opened_human",
            denominator="delivered",
            elsewhere="SES: opens / deliveries. SendGrid: unique opens / delivered, machines included unless left out. "
            "SparkPost: unique confirmed opens / accepted, prefetched opens apart. Postmark: unique opens / tracked.",
        ),
        RateMetric(
            name="click_rate",
            title="Click rate",
            meaning="Of the emails that were delivered, those in which a person followed a link.",
            numerator="clicked_human",
            denominator="delivered",
            elsewhere="SES: clicks / deliveries. SendGrid: unique clicks / delivered. SparkPost: unique clicks / "
            "accepted. Postmark: unique clicks / tracked.",
        ),
        RateMetric(
            name="click_to_open_rate",
            title="Click-to-open rate",
            meaning="Emails with a person's click, per email that a person opened. Above 1 where no images are loaded.",
            numerator="clicked_human",
            denominator="opened_human",
            elsewhere="Common among marketers; SparkPost and SendGrid leave it to the reader.",
        ),
        RateMetric(
            name="drop_rate",
            title="Drop rate",
            meaning="Of the emails that were accepted, those that a suppression or a policy stopped.",
            numerator="dropped",
            denominator="accepted",
            elsewhere="SendGrid: drops / requests. SparkPost: policy rejections / injected.",
        ),
        RateMetric(
            name="failure_rate",
            title="Failure rate",
            meaning="Of the emails that were accepted, those that could not be sent.",
            numerator="failed",
            denominator="accepted",
            elsewhere="SES: rendering failures and rejects, counted apart. SparkPost: generation failures / injected.",
        ),
        RateMetric(
            name="conversion_rate",
            title="Conversions told",
            meaning="Of the conversions that are owed, those that Fast Track took.",
            numerator="conversions_told",
            denominator="conversions_owed",
            elsewhere="Nobody else: it is about Fast Track's webhook.",
        ),
    )
}

TIME_METRICS: Final[Mapping[str, TimeMetric]] = {
    metric.name: metric
    for metric in (
        TimeMetric(
            name="time_to_deliver",
            title="Time to deliver",
            meaning="From acceptance to the first report of a delivery.",
            fact="delivered",
        ),
        TimeMetric(
            name="time_to_open",
            title="Time to open",
            meaning="From acceptance to a person's first open.",
            fact="opened",
        ),
        TimeMetric(
            name="time_to_click",
            title="Time to click",
            meaning="From acceptance to a person's first click.",
            fact="clicked",
        ),
    )
}

METRIC_NAMES: Final = (*COUNT_METRICS, *RATE_METRICS, *TIME_METRICS)
"""All names, in the order in which answers have them."""
DEFAULT_METRICS: Final = (
    *("accepted", "delivered", "bounced", "complained", "opened_human", "clicked_human"),
    *("delivery_rate", "bounce_rate", "complaint_rate"),
)


def time_bucket(duration_ms: int) -> int:
    """Return the number of the histogram's bucket for a duration; a negative one is in the first."""
    return next((nth for nth, bound in enumerate(TIME_BOUNDS_S) if duration_ms <= bound * 1000), len(TIME_BOUNDS_S))


def count_value(name: str, sums: Mapping[str, int]) -> int:
    """Return a count from the sums of the rollup's columns."""
    return sum(sums.get(column, 0) for column in COUNT_METRICS[name].columns)


def estimate_rate(name: str, sums: Mapping[str, int]) -> RateEstimate:
    """Return a rate from the sums of the rollup's columns."""
    metric = RATE_METRICS[name]
    numerator, denominator = count_value(metric.numerator, sums), count_value(metric.denominator, sums)
    low, high = wilson_interval(numerator, denominator) or (None, None)
    return RateEstimate(
        numerator=numerator,
        denominator=denominator,
        rate=_rounded(numerator / denominator) if denominator > 0 else None,
        low=_rounded(low),
        high=_rounded(high),
        enough=denominator >= metric.enough,
    )


def _rounded(share: float | None) -> float | None:
    """Return the share with six digits, so that answers are the same on every machine."""
    return None if share is None else round(share, 6)


def wilson_interval(successes: int, trials: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a share (Wilson, 1927); None if it is no share of anything."""
    if trials <= 0 or not 0 <= successes <= trials:
        return None
    share, z2 = successes / trials, CONFIDENCE_Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = CONFIDENCE_Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def histogram_quantile(counts: Sequence[int], quantile: float) -> float | None:
    """Return a quantile in seconds, interpolated within its bucket.

    None where nothing was counted, and where the quantile is longer than the last bound.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, seen, lower = quantile * total, 0, 0
    for bound, count in zip(TIME_BOUNDS_S, counts, strict=False):
        if count and seen + count >= wanted:
            return round(lower + (bound - lower) * (wanted - seen) / count, 3)
        seen, lower = seen + count, bound
    return None
