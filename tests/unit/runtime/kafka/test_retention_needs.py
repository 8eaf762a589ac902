"""How long the cluster must keep each topic, and what is said where it keeps less."""

from collections.abc import Mapping

import pytest

from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.kafka.retention_needs import retention_problems
from pipeline.settings import Settings
from topics.registry import CONVERSION_RESULTS, DAY_MS, MESSAGE_CONTENTS, PROVIDER_ACKS, SEND_REQUESTS, TOPICS, Topic

DELETED = [topic for topic in TOPICS if topic.cleanup == "delete"]
DEFAULTS = Settings()


def problems(topic: Topic, days: Mapping[Topic, int], settings: Settings = DEFAULTS) -> list[str]:
    """Return the problems of a topic where each topic is kept for its ``days``, or as the registry says."""
    kept = {one.name: days.get(one, one.retention_ms // DAY_MS) for one in DELETED}
    configs = {name: {"retention.ms": str(-1 if day < 0 else int(day * DAY_MS))} for name, day in kept.items()}
    return retention_problems(topic, configs, settings)


@pytest.mark.parametrize("topic", DELETED, ids=lambda topic: topic.name)
def test_a_shorter_retention_is_named_with_what_breaks(topic: Topic) -> None:
    assert topic.loss
    assert problems(topic, {}) == []
    days = topic.retention_ms // DAY_MS
    [problem] = problems(topic, {topic: days - 1})
    assert f"({days - 1} days), must be at least {topic.retention_ms} ({days} days), or {topic.loss}" in problem


@pytest.mark.parametrize("kept", [500, -1])
def test_a_longer_retention_is_right(kept: int) -> None:
    everywhere = dict.fromkeys(DELETED, kept)
    assert [problem for topic in DELETED for problem in problems(topic, everywhere)] == []


@pytest.mark.parametrize("topic", [PROVIDER_ACKS, CONVERSION_RESULTS], ids=lambda topic: topic.name)
@pytest.mark.parametrize("kept", [500, -1])
def test_what_was_done_must_be_kept_as_long_as_what_was_asked(topic: Topic, kept: int) -> None:
    [problem] = problems(topic, {SEND_REQUESTS: kept})
    assert "requests outlive it on send-requests" in problem
    assert problems(SEND_REQUESTS, {SEND_REQUESTS: kept}) == []


def test_a_limit_by_size_is_a_problem() -> None:
    config = {"retention.ms": str(SEND_REQUESTS.retention_ms), "retention.bytes": "1000000000"}
    [problem] = retention_problems(SEND_REQUESTS, {SEND_REQUESTS.name: config}, DEFAULTS)
    assert "retention.bytes is 1000000000, must be -1" in problem


def test_contents_must_outlive_the_schedule_of_attempts() -> None:
    patient = Settings(dispatch_schedule=(86_400.0,) * 10)
    assert topic_admin._new_topic(MESSAGE_CONTENTS, patient).topic_configs["retention.ms"] == str(10 * DAY_MS)
    [problem] = problems(MESSAGE_CONTENTS, {}, patient)
    assert "must be at least 864000000 (10 days), or the last attempts of MAILFOLD_DISPATCH_SCHEDULE" in problem
    assert problems(MESSAGE_CONTENTS, {MESSAGE_CONTENTS: 10}, patient) == []


def test_requests_must_outlive_identities() -> None:
    [problem] = problems(SEND_REQUESTS, {}, Settings(idempotency_days=500))
    assert "must be at least 43200000000 (500 days), or a rebuilt database forgets identities" in problem
