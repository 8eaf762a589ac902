"""How far one reader of the log has come: its lag, its oldest unprocessed record, and whether it has caught up.

The readers of dispatch and project tell it what they fetch and finish; `role_health` asks it for gauges and readiness.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.observing.role_metrics import ReaderMetrics
from pipeline.runtime.ports import Clock

LOST_TTL_MS: Final = 60_000
NextOffsets = Callable[[], Mapping[TopicPartition, int]]
"""A function that returns the first unread offset of each partition."""


class ReaderProgress:
    """The progress of one reader, which may get another consumer, or none, while its process runs."""

    def __init__(self, metrics: ReaderMetrics, reader: str, prefix: str, clock: Clock) -> None:
        """Create it without a consumer; ``prefix`` is that of the topics on the cluster."""
        self._metrics = metrics
        self._reader = reader
        self._prefix_chars: Final = len(prefix)
        self._clock = clock
        self._consumer: AIOKafkaConsumer | None = None
        self._next_offsets: NextOffsets = dict
        self._fetched_at: dict[TopicPartition, int] = {}
        """The time of the oldest fetched and unprocessed record, in milliseconds, by partition."""
        self._shown: set[tuple[str, str, str]] = set()
        self._topics: set[str] = set()
        """The topics whose age is shown: also those that another process reads now, with 0."""
        self._lost: dict[TopicPartition, str] = {}
        self._lost_at = 0
        self.catching_up: Callable[[], int] = lambda: 0
        """Returns the number of partitions that are not read as far as they must be before the work begins."""

    def begin(
        self, consumer: AIOKafkaConsumer, next_offsets: NextOffsets, catching_up: Callable[[], int] = lambda: 0
    ) -> None:
        """Show the progress of this consumer from now on."""
        self._consumer, self._next_offsets, self.catching_up = consumer, next_offsets, catching_up
        self._lost = {}

    def end(self) -> None:
        """Show nothing until the reader begins again: another process reads, or none."""
        self._consumer, self._next_offsets, self.catching_up = None, dict, lambda: 0
        self._fetched_at.clear()

    def add_fetched(self, partition: TopicPartition, records: Sequence[Any]) -> None:
        """Note records that are to be processed now."""
        if records:
            self._fetched_at[partition] = records[0].timestamp

    def note_lost(self, place: TopicPartition, reason: str) -> None:
        """Note that the reader stands still because the log lacks what was read from this partition.

        It is noted again at each attempt, and counts for a minute: another process may become the reader.
        """
        self._lost[place] = reason
        self._lost_at = self._clock()

    def clear_lost(self, place: TopicPartition) -> None:
        """Note that the partition is read on."""
        self._lost.pop(place, None)

    def _is_lost(self) -> bool:
        return bool(self._lost) and self._clock() - self._lost_at < LOST_TTL_MS

    def finish(self, partitions: Iterable[TopicPartition]) -> None:
        """Note that all fetched records of these partitions are processed, or that they are read elsewhere now."""
        for partition in partitions:
            self._fetched_at.pop(partition, None)

    async def find_problems(self) -> dict[str, str]:
        """Return that the reader stands still or catches up; nothing if it reads on, or if another process does."""
        if self._is_lost():
            return {self._reader: next(iter(self._lost.values()))}
        partitions = self.catching_up()
        return {self._reader: f"catching up with the log in {partitions} partitions"} if partitions else {}

    async def refresh_gauges(self) -> None:
        """Set the gauges of lag and age; ask the brokers for the ends of the partitions."""
        positions = self._next_offsets()
        ends = {} if self._consumer is None or not positions else await self._consumer.end_offsets(list(positions))
        lags = {partition: max(0, end - positions[partition]) for partition, end in ends.items()}
        shown = {self._labels(partition): lag for partition, lag in lags.items()}
        for labels in self._shown - shown.keys():
            self._metrics.lag.remove(*labels)
        self._shown = set(shown)
        for labels, lag in shown.items():
            self._metrics.lag.labels(*labels).set(lag)
        self._topics |= {partition.topic for partition in positions}
        self._show_ages(self._topics)
        self._metrics.log_lost.labels(self._reader).set(self._is_lost())

    def _show_ages(self, topics: Iterable[str]) -> None:
        now = self._clock()
        for topic in topics:
            times = [at for partition, at in self._fetched_at.items() if partition.topic == topic]
            age_s = max(0.0, (now - min(times)) / 1000) if times else 0.0
            self._metrics.oldest.labels(self._reader, topic[self._prefix_chars :]).set(age_s)

    def _labels(self, partition: TopicPartition) -> tuple[str, str, str]:
        return self._reader, partition.topic[self._prefix_chars :], str(partition.partition)


def observe_reader(rt: Runtime, metrics: ReaderMetrics, reader: str) -> ReaderProgress:
    """Return the progress of a reader, which from now on counts for the role's readiness and gauges."""
    progress = ReaderProgress(metrics, reader, rt.settings.topic_prefix, rt.clock)
    rt.health.add_check(progress.find_problems)
    rt.health.add_gauges(progress.refresh_gauges)
    return progress
