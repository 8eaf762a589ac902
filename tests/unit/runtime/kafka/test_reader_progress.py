"""The lag, the oldest record and the readiness of one reader of the log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from aiokafka import TopicPartition

from pipeline.runtime.kafka.reader_progress import ReaderProgress
from pipeline.runtime.observing.role_metrics import ReaderMetrics, RoleMetrics

FIRST, SECOND = TopicPartition("x-email-changes", 0), TopicPartition("x-email-changes", 1)


@dataclass
class Record:
    timestamp: int


class Brokers:
    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 10)


def made() -> tuple[ReaderProgress, RoleMetrics]:
    metrics = RoleMetrics()
    return ReaderProgress(ReaderMetrics(metrics), "project", "x-", lambda: 60_000), metrics


async def test_lag_is_shown_by_partition_until_the_reader_ends() -> None:
    progress, metrics = made()
    progress.begin(cast("Any", Brokers()), lambda: {FIRST: 4, SECOND: 10})
    await progress.refresh_gauges()
    labels = {"reader": "project", "topic": "email-changes"}
    assert metrics.registry.get_sample_value("mailfold_lag_records", {**labels, "partition": "0"}) == 6
    assert metrics.registry.get_sample_value("mailfold_lag_records", {**labels, "partition": "1"}) == 0
    progress.end()
    await progress.refresh_gauges()
    assert "mailfold_lag_records{" not in metrics.render().decode()


async def test_age_is_that_of_the_oldest_record_in_hand() -> None:
    progress, metrics = made()
    progress.begin(cast("Any", Brokers()), lambda: {FIRST: 4, SECOND: 10})
    progress.add_fetched(FIRST, [Record(50_000), Record(20_000)])
    progress.add_fetched(SECOND, [Record(55_000)])
    labels = {"reader": "project", "topic": "email-changes"}
    await progress.refresh_gauges()
    assert metrics.registry.get_sample_value("mailfold_oldest_unprocessed_seconds", labels) == 10
    progress.finish([FIRST])
    await progress.refresh_gauges()
    assert metrics.registry.get_sample_value("mailfold_oldest_unprocessed_seconds", labels) == 5
    progress.finish([SECOND])
    await progress.refresh_gauges()
    assert metrics.registry.get_sample_value("mailfold_oldest_unprocessed_seconds", labels) == 0


async def test_reader_that_catches_up_is_a_problem_and_a_standby_is_none() -> None:
    progress, _ = made()
    assert await progress.find_problems() == {}
    missing = [3]
    progress.begin(cast("Any", Brokers()), dict, lambda: missing[0])
    assert await progress.find_problems() == {"project": "catching up with the log in 3 partitions"}
    missing[0] = 0
    assert await progress.find_problems() == {}
