"""The private parts of aiokafka that we use to avoid a copy of each record."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchError, FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from pipeline.runtime.observing.tracing import traceparent_of
from pipeline.worker.streaming import fetch
from pipeline.worker.streaming.fetch import _adapt_results

PLACE = TopicPartition("topic", 3)


def fetched(*pairs: tuple[bytes | None, bytes | None], headers: Sequence[tuple[str, bytes]] = ()) -> Any:
    """As aiokafka keeps what a broker answered."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1_000_000)
    for offset, (key, value) in enumerate(pairs):
        builder.append(offset, 1, key, value, list(headers))
    records = PartitionRecords(
        PLACE, MemoryRecords(bytes(builder.build())), [], 0, None, None, True, READ_COMMITTED
    )  # aiokafka's own order
    assignment = SimpleNamespace(active=True, state_value=lambda _: SimpleNamespace(consumed_to=lambda _: None))
    result: Any = FetchResult(PLACE, assignment=assignment, partition_records=records, backoff=0)
    result.check_assignment = lambda _: True
    return result


def consumer(*results: Any) -> Any:
    return SimpleNamespace(_fetcher=SimpleNamespace(_records=dict(enumerate(results))))


def test_uncopied_records_have_attributes_that_fold_reads() -> None:
    pairs = [(b"a", b"1"), (None, b"2"), (b"c", None), (b"", b"")]
    plain, spared = fetched(*pairs), fetched(*pairs)
    _adapt_results(consumer(spared))
    copied, parsed = plain.getall(), spared.getall()
    assert {type(record).__name__ for record in copied} == {"ConsumerRecord"}
    assert {type(record).__name__ for record in parsed} == {"DefaultRecord"}
    for records in (copied, parsed):
        assert [(record.offset, record.key, record.value) for record in records] == [
            (offset, key, value) for offset, (key, value) in enumerate(pairs)
        ]


def test_uncopied_records_have_the_headers_that_tracing_reads() -> None:
    plain = fetched((b"a", b"1"), (b"b", b"2"), headers=[("other", b""), ("traceparent", b"00-1-2-01")])
    _adapt_results(consumer(plain))
    assert [traceparent_of(record) for record in plain.getall()] == ["00-1-2-01"] * 2
    without = fetched((b"a", b"1"))
    _adapt_results(consumer(without))
    assert [traceparent_of(record) for record in without.getall()] == [""]


def test_failed_and_consumed_fetches_are_left_unchanged() -> None:
    read = fetched((b"a", b"1"))
    read.getall()
    assert not read.has_more()
    _adapt_results(consumer(read, FetchError(error=ValueError(), backoff=0)))


def test_size_of_values_is_bounded_and_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_VALUE_BYTES", 100)
    pairs = [(b"k", b"v" * size) for size in (60, 60, 0, 200, 10)]
    result = fetched(*pairs)
    _adapt_results(consumer(result))
    batches = []
    while result.has_more():
        batches.append([record.offset for record in result.getall(max_records=10)])
    assert batches == [[0, 1], [2, 3], [4]]
    limited = fetched(*pairs[2:])
    _adapt_results(consumer(limited))
    assert [record.offset for record in limited.getall(max_records=1)] == [0]
