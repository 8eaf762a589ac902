"""What aiokafka fetched in, spans out: records and the offsets between which they were fetched.

Runs on Faust's consumer thread; what becomes of the spans is :mod:`pipeline.worker.streaming.transport`'s.
"""

from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types.tuples import ConsumerMessage

FETCH_WAIT_MS: Final = 50
"""aiokafka has one fetch per broker under way: a partition that was just read waits until it returns."""
FETCH_TIMEOUT_S: Final = 0.25
"""Seconds for one look at what was fetched; transaction markers move a position without any record."""


class OffsetRange(msgspec.Struct, frozen=True):
    """Records, and the offsets before and after which they were fetched: [start, end)."""

    start: int
    end: int
    records: list[Any]


class FetchedBatch(msgspec.Struct, frozen=True):
    """A span of one partition, fetched in one epoch."""

    span: OffsetRange
    epoch: int


class FetchedMessage(ConsumerMessage):
    """A run as Faust's message. Its offset is the run's last, which is what recovery counts by."""

    __slots__ = ("term",)

    term: int


class BatchConsumerThread(AIOKafkaConsumerThread):
    """Faust's thread around aiokafka: reads what is committed, and says how far."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust ties these to its own "exactly once", which isn't (its output is not transactional).
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def _fetch_records(  # type: ignore[override]
        self,
        consumer: Any,
        active_partitions: set[Any],
        timeout: float | None = None,  # noqa: ASYNC109  Faust's signature
        max_records: int | None = None,
    ) -> dict[Any, OffsetRange]:
        before = _positions(consumer, active_partitions)
        within = None if timeout is None else min(timeout, FETCH_TIMEOUT_S)
        _spare_copies(consumer)
        fetched = await super()._fetch_records(consumer, active_partitions, within, max_records)
        after = _positions(consumer, active_partitions)
        return {tp: OffsetRange(before[tp], end, fetched.get(tp, [])) for tp, end in after.items() if tp in before}


def _spare_copies(consumer: Any) -> None:
    """Take records as they were parsed, with `offset`, `key` and `value`.

    aiokafka makes another object of each, with eight more fields that nobody reads: a tenth of the fold's CPU.
    """
    for result in consumer._fetcher._records.values():
        records = getattr(result, "_partition_records", None)  # an error has none
        if records is not None:
            records._consumer_record = _as_parsed


def _as_parsed(_tp: Any, record: Any) -> Any:
    return record


def _positions(consumer: Any, partitions: set[Any]) -> dict[Any, int]:
    """Where aiokafka will go on, partition by partition; transaction markers are behind it, too."""
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None or not assignment.active:
        return {}
    states = {tp: assignment.state_value(TopicPartition(*tp)) for tp in partitions if tp in assignment.tps}
    return {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}
