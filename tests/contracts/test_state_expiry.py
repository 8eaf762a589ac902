"""Expiry of states with a real partition and store: a state is gone at once, and no later fact is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.errors import PartitionNotAssigned
from pipeline.settings import Settings
from pipeline.worker.streaming import store as stores
from pipeline.worker.streaming.app import WorkerFlow
from pipeline.worker.streaming.commit_batch import FoldResult
from pipeline.worker.streaming.expiry_scan import ExpiryScan
from pipeline.worker.streaming.fetch import FetchedBatch, OffsetRange
from pipeline.worker.streaming.partitions import PartitionWriter
from pipeline.worker.streaming.producer import TransactionalProducer
from tests.support.worker import FACT_TOPIC_NAMES, dump
from topics.registry import EMAIL_CHANGES, EMAIL_STATES

FACTS = "send-requests"


class Partition:
    """Partition 0 of a worker: assigned, its store open; no agent runs."""

    def __init__(self, settings: Settings) -> None:
        self.flow = WorkerFlow(settings, None)  # type: ignore[arg-type]
        self.flow.app.finalize()
        self.store: Any = self.flow.app.tables[EMAIL_STATES.name].data
        self._settings = settings
        self._offset = 0

    async def open(self) -> None:
        names = [self._settings.topic(name) for name in (*FACT_TOPIC_NAMES, EMAIL_STATES.name)]
        await self.flow.writers.take_over({TP(name, 0) for name in names})
        self.store._db_for_partition(0)

    async def close(self) -> None:
        await self.flow.writers.close()
        await self.store.stop()

    @property
    def lane(self) -> PartitionWriter:
        return self.flow.writers[0]

    def fold(self, **states: bytes) -> None:
        """As if a fact had been folded to these states."""
        run = FetchedBatch(OffsetRange(self._offset, self._offset + 1, [None]), 0)
        self._offset += 1
        message = self.flow.app.consumer._to_message(TP(self._settings.topic(FACTS), 0), run)
        encoded = {key.encode(): state for key, state in states.items()}
        self.lane.add(message, FoldResult(encoded, [(key, b"change") for key in encoded]))

    def forget(self, *keys: str) -> int:
        return self.lane.expire([key.encode() for key in keys])

    def read(self, key: str = "k") -> bytes | None:
        return self.lane.read([key.encode()])[key.encode()]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.001)

    async def written(self) -> None:
        """Nothing is on its way any more."""
        await self.until(lambda: not (self.lane._filling.states or self.lane._in_flight.states))

    def stored(self, key: str = "k") -> bytes | None:
        found: list[bytes | None] = self.store.read(0, [key.encode()])
        return found[0]

    async def logged(self, topic: Any = EMAIL_STATES) -> list[bytes | None]:
        return [value for place, _, value in await dump(self._settings, topic) if place.partition == 0]


@pytest.fixture
async def partition(settings: Settings) -> AsyncIterator[Partition]:
    flow = Partition(settings)
    await flow.open()
    yield flow
    await flow.close()


async def test_expired_state_is_gone_from_cache_log_and_store(partition: Partition) -> None:
    partition.fold(k=b"old", other=b"stays")
    await partition.written()
    assert partition.forget("k") == 1
    assert partition.read() is None, "while its tombstone waits"
    await partition.until(lambda: bool(partition.lane._in_flight.states))
    assert (partition.stored(), partition.read()) == (b"old", None), "while it is on its way"
    await partition.written()
    assert (partition.stored(), partition.read()) == (None, None)
    assert (partition.stored("other"), partition.read("other")) == (b"stays", b"stays")
    assert await partition.logged() == [b"old", b"stays", None]
    assert await partition.logged(EMAIL_CHANGES) == [b"change", b"change"], "nobody who reads changes hears of it"


@pytest.mark.parametrize("when", ["it waits", "it is on its way"])
async def test_fact_during_tombstone_begins_new_state(partition: Partition, when: str) -> None:
    partition.fold(k=b"old")
    await partition.written()
    partition.forget("k")
    if when == "it is on its way":
        await partition.until(lambda: bool(partition.lane._in_flight.states))
    assert partition.read() is None
    partition.fold(k=b"new")
    assert partition.read() == b"new"
    await partition.written()
    assert (partition.stored(), partition.read()) == (b"new", b"new")
    assert (await partition.logged())[-1] == b"new"


@pytest.mark.parametrize("when", ["it waits", "it is on its way"])
async def test_state_with_unfinished_facts_is_kept(partition: Partition, when: str) -> None:
    partition.fold(k=b"old")
    await partition.written()
    partition.fold(k=b"new")
    if when == "it is on its way":
        await partition.until(lambda: bool(partition.lane._in_flight.states))
    assert partition.stored() == b"old", "which is what a walk would see"
    assert partition.forget("k") == 0
    await partition.written()
    assert partition.stored() == b"new"
    assert await partition.logged() == [b"old", b"new"]


async def test_state_with_pending_tombstone_gets_no_second_one(partition: Partition) -> None:
    partition.fold(k=b"old")
    await partition.written()
    assert (partition.forget("k"), partition.forget("k")) == (1, 0)
    await partition.until(lambda: bool(partition.lane._in_flight.states))
    assert partition.forget("k") == 0
    await partition.written()
    assert await partition.logged() == [b"old", None]


async def test_worker_that_lost_partition_cannot_write_tombstone(partition: Partition, settings: Settings) -> None:
    partition.fold(k=b"old")
    await partition.written()
    successor = TransactionalProducer(settings, partition.flow.app.conf.id, 0)
    await successor.open()
    try:
        partition.forget("k")
        await partition.until(lambda: not partition.lane._is_open)
    finally:
        await successor.close()
    assert partition.stored() == b"old"
    assert await partition.logged() == [b"old"]
    assert partition.forget("k") == 0, "a closed lane takes nothing"


async def test_closed_store_gets_tombstone_from_log(partition: Partition) -> None:
    """A shutdown waits for facts, but a tombstone may be confirmed after the store is closed; that must not crash."""
    partition.fold(k=b"old")
    await partition.written()
    partition.forget("k")
    await partition.until(lambda: bool(partition.lane._in_flight.states))
    await partition.store.stop()
    await partition.written()
    assert partition.lane._is_open
    assert await partition.logged() == [b"old", None]


# ── The scan ────────────────────────────────────────────────────────────────────────────────────────


def walk(partition: Partition, lap: float, quiet: Callable[[bytes], bool]) -> ExpiryScan:
    def find_quiet(stored: Any) -> list[bytes]:
        return [key for key, value in stored if quiet(value)]

    return ExpiryScan(partition.flow.writers, partition.store, partition.flow.app, find_quiet, lap)


def watching(seen: list[bytes]) -> Callable[[bytes], bool]:
    """Return a predicate that finds no state expired and appends the states it gets to ``seen``."""

    def quiet(value: bytes) -> bool:
        seen.append(value)
        return False

    return quiet


async def test_scan_reads_every_state_once_and_starts_again(partition: Partition) -> None:
    count = 3 * stores.SCAN_MAX_STATES + 7
    partition.fold(**{f"k{number:04}": b"%d" % number for number in range(count)})
    await partition.written()
    seen: list[int] = []

    def quiet(value: bytes) -> bool:
        seen.append(int(value))
        return int(value) % 3 == 0

    walking = walk(partition, 86_400, quiet)
    pauses = [walking.scan_next(partition.lane) for _ in range(5)]
    assert seen == list(range(count))
    assert pauses[:3] == [60, 60, 60], "as slowly as it may, where there is little"
    await partition.written()
    assert [number for number in range(count) if partition.stored(f"k{number:04}") is None] == list(range(0, count, 3))
    seen.clear()
    walking.scan_next(partition.lane)
    assert seen[:2] == [1, 2], "from the beginning, without those that are gone"


async def test_deletions_are_flushed_after_scan(partition: Partition) -> None:
    """Otherwise reading the first state would skip all deletions before it and block everything else meanwhile."""
    partition.fold(**{f"k{number:04}": b"x" for number in range(stores.SCAN_MAX_STATES)})
    await partition.written()
    walking = walk(partition, 86_400, lambda _: True)
    db = partition.store._dbs[0]

    def waiting() -> int:
        found: int = db.property_int_value("rocksdb.num-deletes-active-mem-table")
        return found

    walking.scan_next(partition.lane)
    await partition.written()
    assert waiting() == stores.SCAN_MAX_STATES
    walking.scan_next(partition.lane)
    await partition.until(lambda: waiting() == 0)


async def test_large_partition_is_scanned_faster_but_in_steps(partition: Partition) -> None:
    partition.fold(**{f"k{number:05}": b"x" for number in range(5_000)})
    await partition.written()
    calm, hurried = (walk(partition, lap, lambda _: False).scan_next(partition.lane) for lap in (1_000, 1))
    assert calm == pytest.approx(1_000 * stores.SCAN_MAX_STATES / 5_000, rel=0.1)
    assert hurried == 0.1


async def test_scan_continues_after_restart(settings: Settings) -> None:
    """Otherwise workers that restart often would never reach the end of a large partition."""
    seen: list[bytes] = []
    for _ in range(2):
        partition = Partition(settings)
        await partition.open()
        if not seen:
            partition.fold(**{f"k{number:04}": b"%d" % number for number in range(150)})
            await partition.written()
        walk(partition, 1, watching(seen)).scan_next(partition.lane)
        await partition.close()
    assert [int(value) for value in seen] == list(range(150))


async def test_no_scan_during_rebalance_recovery_or_revocation(partition: Partition) -> None:
    partition.fold(k=b"old")
    await partition.written()
    app = partition.flow.app
    seen: list[bytes] = []
    walking = walk(partition, 0.001, watching(seen))
    task = asyncio.create_task(walking.run())
    try:
        app.in_recovery = True
        await partition.until(lambda: 0 in walking._due_at and walking._due_at[0] < app.loop.time() - 0.3)
        app.in_recovery, app.rebalancing = False, True
        await partition.until(lambda: walking._due_at[0] < app.loop.time() - 0.6)
        assert seen == []
        app.rebalancing = False
        await partition.until(lambda: bool(seen))
    finally:
        task.cancel()


async def test_partition_revoked_during_scan_does_not_end_scan_task(partition: Partition) -> None:
    walking = walk(partition, 0.001, lambda _: True)
    task = asyncio.create_task(walking.run())
    try:
        await partition.until(lambda: 0 in walking._due_at)
        await partition.store.stop()
        late = partition.flow.app.loop.time()
        await partition.until(lambda: partition.flow.app.loop.time() > late + 0.3)
        assert not task.done()
        with pytest.raises(PartitionNotAssigned):
            walking.scan_next(partition.lane)
    finally:
        task.cancel()


# ── The store, without any broker ───────────────────────────────────────────────────────────────────


@pytest.fixture
def store(tmp_path: Path) -> Any:
    flow = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
    flow.app.finalize()
    table = flow.app.tables[EMAIL_STATES.name].data
    table._db_for_partition(0)
    return table


def test_scan_returns_states_in_key_order_without_store_metadata(store: Any) -> None:
    """Keys are hexadecimal, so metadata keys, which begin with an underscore, sort between them."""
    store.write(0, {b"9": b"nine", b"a": b"ten", b"b": None, b"0": b"zero"}, 41)
    store.save_scan_position(0, b"9")
    assert store.next_states(0, b"") == [(b"0", b"zero"), (b"9", b"nine"), (b"a", b"ten")]
    assert store.next_states(0, b"9") == [(b"a", b"ten")]
    assert store.next_states(0, b"a") == []
    assert store.scan_position(0) == b"9"


def test_large_states_are_read_in_small_groups(store: Any) -> None:
    store.write(0, {b"%d" % number: b"x" * 100_000 for number in range(9)}, 1)
    assert len(store.next_states(0, b"")) == 3
    store.write(0, {b"%d" % number: b"x" * 900_000 for number in range(9)}, 2)
    assert len(store.next_states(0, b"")) == 1


def test_tombstone_removes_state_and_advances_offset(store: Any) -> None:
    store.write(0, {b"k": b"v"}, 3)
    store.write(0, {b"k": None}, 4)
    assert store.read(0, [b"k"]) == [None]
    assert store.persisted_offset(TP("email-states", 0)) == 4


def test_recovery_applies_tombstones(store: Any) -> None:
    store.write(0, {b"gone": b"1", b"back": b"2", b"late": b"3"}, 9)

    def record(offset: int, key: bytes, value: bytes | None) -> SimpleNamespace:
        return SimpleNamespace(offset=offset, key=key, value=value)

    records = [
        record(10, b"gone", None),
        record(11, b"back", None),
        record(12, b"back", b"4"),
        record(9, b"late", None),
    ]
    message = SimpleNamespace(tp=TP("email-states", 0), value=FetchedBatch(OffsetRange(10, 13, records), 0))
    store._apply(message.tp, [message])
    assert store.read(0, [b"gone", b"back", b"late"]) == [None, b"4", b"3"]


def test_metadata_keys_differ_from_state_keys() -> None:
    assert stores.SCAN_POSITION_KEY.startswith(stores.INTERNAL_KEY_PREFIX)
    assert stores.StateStore.offset_key.startswith(stores.INTERNAL_KEY_PREFIX)
    assert stores.StateStore.offset_key != stores.SCAN_POSITION_KEY
