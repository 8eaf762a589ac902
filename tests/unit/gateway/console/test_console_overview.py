"""The overview names what needs a person, and nothing of other tenants to those who may not see it."""

import datetime as dt

import msgspec

from pipeline.gateway.console.overview import overview_figures, overview_problems, tenant_problems
from pipeline.operations.recover.losses import LogLoss
from pipeline.operations.status import (
    HaltedPartition,
    JobCount,
    OwedConversion,
    ParkedCount,
    StatusSnapshot,
    StoppedLane,
    TopicLag,
)
from pipeline.webhooks.redaction import redact_all

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
QUIET = StatusSnapshot(
    lags=[TopicLag("worker", "send-requests", 3, 1000)],
    oldest_owed=None,
    jobs=[],
    stopped=[],
    parked=ParkedCount(0, None),
    dead_letters=0,
)
TROUBLED = msgspec.structs.replace(
    QUIET,
    lags=[TopicLag("project", "email-changes", 5000, 90_000)],
    jobs=[
        JobCount("emit", "pending", 40, NOW),
        JobCount("emit", "unknown", 2, NOW),
        JobCount("dispatch", "held", 7, NOW),
        JobCount("dispatch", "dead", 1, NOW),
    ],
    oldest_owed=OwedConversion("e", "open", "acme/1", NOW, ""),
    stopped=[
        StoppedLane("emit", "acme/1", NOW, "401", None),
        StoppedLane("dispatch", "other/1", None, "", NOW),
        StoppedLane("provider", "ses", None, "", NOW),
    ],
    dead_letters=4,
    halted=(HaltedPartition(3, "a record of a newer version"),),
)


def test_quiet_installation_needs_nobody() -> None:
    assert overview_problems(QUIET) == []
    assert tenant_problems(QUIET, "acme", 0) == []


def test_whole_installation_shows_everything_that_needs_somebody() -> None:
    texts = [problem.text for problem in overview_problems(TROUBLED)]
    assert texts == [
        "The projection of partition 3 is halted: a record of a newer version",
        "Conversions of acme/1: paused – 401.",
        "Mail of other/1: it failed too often, and is tried again later.",
        "Provider ses: it failed too often, and is tried again later.",
        "project has 5,000 records of email-changes still to read.",
        "3 jobs wait for a person's decision.",
    ]


def test_one_tenant_sees_what_stops_it_and_nothing_of_others() -> None:
    texts = [problem.text for problem in tenant_problems(TROUBLED, "acme", 2)]
    assert texts == [
        "The projection is halted: statuses and lists may be old. Tell the operator.",
        "Conversions of acme/1: paused – 401.",
        "project has 5,000 records of email-changes still to read.",
        "2 jobs wait for a person's decision.",
    ]


def test_loss_of_records_is_shown_to_everybody() -> None:
    lost = msgspec.structs.replace(QUIET, lost=(LogLoss("project", "email-changes", 0, 5, 3),))
    assert "The log lacks records" in overview_problems(lost)[0].text
    assert "The log lacks records" in tenant_problems(lost, "acme", 0)[0].text


def test_reason_of_a_pause_names_no_address_where_addresses_are_masked() -> None:
    lane = StoppedLane("emit", "acme/1", NOW, "anna@example.com called", None)
    paused = msgspec.structs.replace(QUIET, stopped=[lane])
    for problem in (*overview_problems(paused, redact_all), *tenant_problems(paused, "acme", 0, redact_all)):
        assert "anna" not in problem.text
        assert "[address] called" in problem.text


def test_figures_count_open_jobs_by_queue() -> None:
    figures = {figure.title: figure.value for figure in overview_figures(TROUBLED)}
    assert figures == {
        "Conversions owed": 42,
        "Emails to send": 7,
        "Jobs to decide": 3,
        "Dead letters": 4,
        "Events parked": 0,
    }
