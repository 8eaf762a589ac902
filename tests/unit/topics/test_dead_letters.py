"""A dead letter fits into a record, whichever reader makes it and however large its source is."""

import ast
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from pipeline.dispatch.acks import AckWriter
from pipeline.dispatch.correlation.loop import Correlator
from pipeline.operations.originals import is_whole
from pipeline.project import compacted_topics
from pipeline.project import partition as lane
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres.leader import ReaderOffsets
from pipeline.settings import Settings
from pipeline.webhooks.base import TokenReaders
from pipeline.webhooks.normalize import normalize
from pipeline.worker.fold_batch import RecordBatch, sort_facts
from tests.architecture.repository import ROOT, modules, text
from topics.codec import encode
from topics.dead_letters import MAX_KEY_BYTES, MAX_VALUE_BYTES, DeadLetter, dead_letter
from topics.record import LogPosition
from topics.registry import (
    DEAD_LETTERS,
    DELIVERY_EVENTS,
    MAX_RECORD_BYTES,
    PROVIDER_WEBHOOKS,
    SUPPRESSIONS,
)
from topics.webhooks import RawWebhook

HUGE_BYTES = 3_000_000
HUGE_KEY = b"k" * HUGE_BYTES
HUGE_VALUE = b"v" * HUGE_BYTES
PLACE = LogPosition(topic="delivery-events", partition=3, offset=7)


class Record(NamedTuple):
    """A record as a consumer gives it."""

    topic: str = "provider-acks"
    partition: int = 3
    offset: int = 7
    key: bytes | None = HUGE_KEY
    value: bytes | None = HUGE_VALUE


class MemoryLog:
    """A log that takes what Kafka takes."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    async def append(self, entries: list[LogEntry], *, within: float | None = None) -> list[LogPosition]:
        assert all(len(encode(entry.topic, entry.record)) <= MAX_RECORD_BYTES for entry in entries)
        self.entries += entries
        return [PLACE for _ in entries]


def runtime_with(log: MemoryLog) -> Any:
    return SimpleNamespace(log=log, clock=lambda: 9, settings=Settings())


async def from_fold(_rt: Any) -> DeadLetter:
    [entry] = sort_facts(RecordBatch(DELIVERY_EVENTS, 3, [Record()]), 9)[1]
    return entry


async def from_normalizer(_rt: Any) -> DeadLetter:
    [entry] = normalize(ConsumedRecord(PROVIDER_WEBHOOKS, PLACE, HUGE_KEY, HUGE_VALUE), TokenReaders(), 9).dead_letters
    return entry


async def from_projector(_rt: Any) -> DeadLetter:
    return lane.unprojectable(Record(), "why " * 1_000, 9)


async def from_follower(rt: Any) -> DeadLetter:
    assert await compacted_topics._decode_or_bury(rt, SUPPRESSIONS, [Record()]) == []
    return only(rt.log.entries)


async def from_intake(rt: Any) -> DeadLetter:
    positions = ReaderOffsets(rt, (DELIVERY_EVENTS,), None)  # type: ignore[arg-type]
    return only([positions.dead_letter_entry(Record(topic="delivery-events"), "why")])


async def from_correlation(rt: Any) -> DeadLetter:
    row = (3, 7, HUGE_KEY.decode(), "main", None, HUGE_VALUE)
    return only([Correlator(rt, None, None)._give_up_entry(row)])  # type: ignore[arg-type]


async def from_dispatch(rt: Any) -> DeadLetter:
    attempt: Any = SimpleNamespace(
        bound_provider="",
        request=SimpleNamespace(email_id=HUGE_KEY.decode()),
        job=SimpleNamespace(attempt=1, payload=HUGE_VALUE),
    )
    return AckWriter(rt.log, rt.clock)._dead_letter(attempt, PLACE, "content", "why")


def only(entries: list[LogEntry]) -> DeadLetter:
    [entry] = entries
    assert entry.topic is DEAD_LETTERS
    assert isinstance(entry.record, DeadLetter)
    return entry.record


CALLERS = [from_fold, from_normalizer, from_projector, from_follower, from_intake, from_correlation, from_dispatch]


@pytest.mark.parametrize("caller", CALLERS)
async def test_oversized_record_becomes_dead_letter_that_fits(caller: Any) -> None:
    entry = await caller(runtime_with(MemoryLog()))
    assert len(encode(DEAD_LETTERS, entry)) <= MAX_RECORD_BYTES
    assert (entry.key, entry.value) == (HUGE_KEY[:MAX_KEY_BYTES], HUGE_VALUE[:MAX_VALUE_BYTES])
    assert entry.cut == 2 * HUGE_BYTES - MAX_KEY_BYTES - MAX_VALUE_BYTES
    assert entry.error.startswith(f"the first {MAX_VALUE_BYTES} of {HUGE_BYTES} bytes; ")
    assert (entry.source.partition, entry.source.offset) in {(3, 7)}


def test_small_record_is_kept_whole() -> None:
    entry = dead_letter(PLACE, 9, "undecodable", "why", role="fold", key=b"k", value=b"v" * MAX_VALUE_BYTES)
    assert (entry.cut, entry.error, len(entry.value or b"")) == (0, "why", MAX_VALUE_BYTES)
    assert dead_letter(PLACE, 9, "undecodable", "why", role="fold", key=None, value=None).value is None


def test_texts_are_bounded_and_can_be_encoded() -> None:
    entry = dead_letter(PLACE, 9, "r" * 5_000, "\udc80" + "ü" * 5_000, role="fold", key=None, value=HUGE_VALUE)
    assert len(encode(DEAD_LETTERS, entry)) <= MAX_RECORD_BYTES
    assert "\udc80" not in entry.error


def test_letter_of_an_older_version_is_still_read() -> None:
    whole = dead_letter(PLACE, 9, "undecodable", "why", role="fold", key=b"k", value=b"v")
    assert b"cut" not in encode(DEAD_LETTERS, whole)


def test_dead_letters_are_made_by_one_function_only() -> None:
    makers = [
        str(path.relative_to(ROOT))
        for path in modules()
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(text(str(path.relative_to(ROOT)))))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "DeadLetter"
    ]
    assert makers == ["topics/dead_letters.py"]


def test_cut_letters_and_events_of_webhooks_are_not_the_whole_record() -> None:
    webhook = RawWebhook(webhook_id="w", provider="p", kind="sendgrid", received_at=1, headers=(), body=b"[7]")
    raw = encode(PROVIDER_WEBHOOKS, webhook)
    webhooks, events = (
        LogPosition(topic="provider-webhooks", partition=0, offset=1),
        LogPosition(topic="a", partition=0, offset=1),
    )

    def entry(source: LogPosition, reason: str, value: bytes) -> DeadLetter:
        return dead_letter(source, 9, reason, "why", role="r", key=None, value=value)

    assert is_whole(entry(webhooks, "unrecognised", raw))
    assert is_whole(entry(webhooks, "undecodable", b"\xc1"))
    assert not is_whole(entry(webhooks, "unrecognised", b"7"))
    assert is_whole(entry(events, "unrecognised", b"7"))
    assert not is_whole(entry(events, "undecodable", HUGE_VALUE))
