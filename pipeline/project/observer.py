"""What the projector says of itself: its metrics, and whether it is ready. `project.main` makes one per process."""

from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.project.metrics import ProjectMetrics
from pipeline.project.partition import PartitionProjector
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.reader_progress import observe_reader
from projections.history_queries import latest_projected_time
from topics.registry import Topic

Projectors = Mapping[TopicPartition, PartitionProjector]
"""The projectors of the partitions that this process has now."""


class ProjectObserver:
    """The projector's metrics and readiness, over all of its consumers."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._projectors: Projectors = {}
        self._is_member = False
        self._halted_topics: dict[str, str] = {}
        self.metrics = ProjectMetrics()
        rt.health.use_metrics(self.metrics)
        self.progress = observe_reader(rt, self.metrics.readers, "project")
        rt.health.add_check(self._find_problems)
        rt.health.add_gauges(self._refresh_gauges)

    def begin(self, consumer: AIOKafkaConsumer, projectors: Projectors) -> None:
        """Observe this consumer's partitions from now on; ``projectors`` changes when they are assigned."""
        self._projectors = projectors
        self.progress.begin(
            consumer,
            lambda: {partition: projector.next_offset for partition, projector in projectors.items()},
            lambda: sum(each.is_catching_up for each in projectors.values()),
        )

    def note_assigned(self) -> None:
        """Note that the group has assigned partitions to this process, or none because there are enough others."""
        self._is_member = True
        self.metrics.rebalances.inc()

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Observe these partitions no longer: they are another process's now."""
        self.progress.finish(partitions)
        for partition in partitions:
            self.metrics.halted.remove(str(partition.partition))

    def has_partition(self, number: int) -> bool:
        """Return whether this process projects this partition of `email-changes`."""
        return any(partition.partition == number for partition in self._projectors)

    def report_topic_halt(self, topic: Topic, reason: str) -> None:
        """Show in metrics and `/readyz` why a compacted topic is not projected; "" says that it is."""
        if reason:
            self._halted_topics[topic.name] = reason
        else:
            self._halted_topics.pop(topic.name, None)
        self.metrics.halted_topics.labels(topic.name).set(bool(reason))

    def end(self) -> None:
        """Observe nothing until the next consumer."""
        self._projectors = {}
        self._is_member = False
        self.metrics.halted.clear()
        self.progress.end()

    async def _find_problems(self) -> dict[str, str]:
        topics = {f"topic {name}": f"halted: {reason}" for name, reason in self._halted_topics.items()}
        if not self._is_member:
            return {"project": "partitions are being assigned", **topics}
        return topics | {
            f"partition {partition.partition}": f"halted at offset {each.next_offset}: {each.halted}"
            for partition, each in self._projectors.items()
            if each.halted
        }

    async def _refresh_gauges(self) -> None:
        self.metrics.partitions.set(len(self._projectors))
        async with self._rt.pool.connection(timeout=2) as connection:
            through = await latest_projected_time(connection)
        self.metrics.projected_through.set(max(0, through) / 1000)
