"""A partition's lane and store, real ones, while states leave: gone is gone at once, and no news is lost for it."""

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
        await self.flow.lanes.take_over({TP(name, 0) for name in names})
        self.store._db_for_partition(0)

    async def close(self) -> None:
        await self.flow.lanes.close()
        await self.store.stop()

    @property
    def lane(self) -> PartitionWriter:
        return self.flow.lanes[0]

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
        await self.until(lambda: not (self.lane._filling.states or self.lane._flying.states))

    def stored(self, key: str = "k") -> bytes | None:
        found: list[bytes | None] = self.store.read(0, [key.encode()])
        return found[0]

    async def logged(self, topic: Any = EMAIL_STATES) -> list[bytes | None]:
        return [value for place, _, value in await dump(self._settings, topic) if place.partition == 0]


@pytest.fixture
async def partition(settings: Settings) -> AsyncIterator[Partition]:
    made = Partition(settings)
    await made.open()
    yield made
    await made.close()


async def test_a_forgotten_state_is_gone_at_once_and_then_from_the_log_and_the_store(partition: Partition) -> None:
    partition.fold(k=b"old", other=b"stays")
    await partition.written()
    assert partition.forget("k") == 1
    assert partition.read() is None, "while its tombstone waits"
    await partition.until(lambda: bool(partition.lane._flying.states))
    assert (partition.stored(), partition.read()) == (b"old", None), "while it is on its way"
    await partition.written()
    assert (partition.stored(), partition.read()) == (None, None)
    assert (partition.stored("other"), partition.read("other")) == (b"stays", b"stays")
    assert await partition.logged() == [b"old", b"stays", None]
    assert await partition.logged(EMAIL_CHANGES) == [b"change", b"change"], "nobody who reads changes hears of it"


@pytest.mark.parametrize("when", ["it waits", "it is on its way"])
async def test_a_fact_that_comes_while_the_tombstone_is_under_way_begins_a_new_state(
    partition: Partition, when: str
) -> None:
    partition.fold(k=b"old")
    await partition.written()
    partition.forget("k")
    if when == "it is on its way":
        await partition.until(lambda: bool(partition.lane._flying.states))
    assert partition.read() is None
    partition.fold(k=b"new")
    assert partition.read() == b"new"
    await partition.written()
    assert (partition.stored(), partition.read()) == (b"new", b"new")
    assert (await partition.logged())[-1] == b"new"


@pytest.mark.parametrize("when", ["it waits", "it is on its way"])
async def test_a_state_of_which_news_is_under_way_stays(partition: Partition, when: str) -> None:
    partition.fold(k=b"old")
    await partition.written()
    partition.fold(k=b"new")
    if when == "it is on its way":
        await partition.until(lambda: bool(partition.lane._flying.states))
    assert partition.stored() == b"old", "which is what a walk would see"
    assert partition.forget("k") == 0
    await partition.written()
    assert partition.stored() == b"new"
    assert await partition.logged() == [b"old", b"new"]


async def test_a_state_that_is_on_its_way_out_is_not_sent_after_itself(partition: Partition) -> None:
    partition.fold(k=b"old")
    await partition.written()
    assert (partition.forget("k"), partition.forget("k")) == (1, 0)
    await partition.until(lambda: bool(partition.lane._flying.states))
    assert partition.forget("k") == 0
    await partition.written()
    assert await partition.logged() == [b"old", None]


async def test_whoever_lost_the_partition_can_write_no_tombstone(partition: Partition, settings: Settings) -> None:
    partition.fold(k=b"old")
    await partition.written()
    successor = TransactionalProducer(settings, partition.flow.app.conf.id, 0)
    await successor.open()
    try:
        partition.forget("k")
        await partition.until(lambda: not partition.lane._open)
    finally:
        await successor.close()
    assert partition.stored() == b"old"
    assert await partition.logged() == [b"old"]
    assert partition.forget("k") == 0, "a closed lane takes nothing"


async def test_a_store_that_was_closed_meanwhile_hears_of_a_tombstone_from_the_log(partition: Partition) -> None:
    """An orderly end waits for facts; a tombstone may come too late, and that is no reason to crash."""
    partition.fold(k=b"old")
    await partition.written()
    partition.forget("k")
    await partition.until(lambda: bool(partition.lane._flying.states))
    await partition.store.stop()
    await partition.written()
    assert partition.lane._open
    assert await partition.logged() == [b"old", None]


# ── The walk ────────────────────────────────────────────────────────────────────────────────────────


def walk(partition: Partition, lap: float, quiet: Callable[[bytes], bool]) -> ExpiryScan:
    def find_quiet(stored: Any) -> list[bytes]:
        return [key for key, value in stored if quiet(value)]

    return ExpiryScan(partition.flow.lanes, partition.store, partition.flow.app, find_quiet, lap)


def watching(seen: list[bytes]) -> Callable[[bytes], bool]:
    """Finds nothing quiet, and tells what it was shown."""

    def quiet(value: bytes) -> bool:
        seen.append(value)
        return False

    return quiet


async def test_a_lap_looks_at_every_state_once_and_then_begins_again(partition: Partition) -> None:
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


async def test_what_left_is_cleared_away_after_a_lap(partition: Partition) -> None:
    """Whoever looks for the first state would step over all that left before it, and nobody else could do anything."""
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


async def test_a_large_partition_is_walked_faster_but_never_all_at_once(partition: Partition) -> None:
    partition.fold(**{f"k{number:05}": b"x" for number in range(5_000)})
    await partition.written()
    calm, hurried = (walk(partition, lap, lambda _: False).scan_next(partition.lane) for lap in (1_000, 1))
    assert calm == pytest.approx(1_000 * stores.SCAN_MAX_STATES / 5_000, rel=0.1)
    assert hurried == 0.1


async def test_a_walk_goes_on_after_a_restart_where_it_was(settings: Settings) -> None:
    """Else the end of a large partition would never be seen by workers that restart often."""
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


async def test_nothing_is_walked_while_partitions_move_are_recovered_or_given_back(partition: Partition) -> None:
    partition.fold(k=b"old")
    await partition.written()
    app = partition.flow.app
    seen: list[bytes] = []
    walking = walk(partition, 0.001, watching(seen))
    task = asyncio.create_task(walking.run())
    try:
        app.in_recovery = True
        await partition.until(lambda: 0 in walking._due and walking._due[0] < app.loop.time() - 0.3)
        app.in_recovery, app.rebalancing = False, True
        await partition.until(lambda: walking._due[0] < app.loop.time() - 0.6)
        assert seen == []
        app.rebalancing = False
        await partition.until(lambda: bool(seen))
    finally:
        task.cancel()


async def test_a_partition_that_moves_in_the_middle_of_a_walk_ends_nothing(partition: Partition) -> None:
    walking = walk(partition, 0.001, lambda _: True)
    task = asyncio.create_task(walking.run())
    try:
        await partition.until(lambda: 0 in walking._due)
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
    made = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
    made.app.finalize()
    kept = made.app.tables[EMAIL_STATES.name].data
    kept._db_for_partition(0)
    return kept


def test_states_come_in_the_order_of_their_keys_without_the_stores_own_notes(store: Any) -> None:
    """Keys are hexadecimal: the notes, which begin with an underscore, lie in the middle of them."""
    store.write(0, {b"9": b"nine", b"a": b"ten", b"b": None, b"0": b"zero"}, 41)
    store.save_scan_position(0, b"9")
    assert store.next_states(0, b"") == [(b"0", b"zero"), (b"9", b"nine"), (b"a", b"ten")]
    assert store.next_states(0, b"9") == [(b"a", b"ten")]
    assert store.next_states(0, b"a") == []
    assert store.scan_position(0) == b"9"


def test_large_states_are_looked_at_a_few_at_a_time(store: Any) -> None:
    store.write(0, {b"%d" % number: b"x" * 100_000 for number in range(9)}, 1)
    assert len(store.next_states(0, b"")) == 3
    store.write(0, {b"%d" % number: b"x" * 900_000 for number in range(9)}, 2)
    assert len(store.next_states(0, b"")) == 1


def test_a_tombstone_takes_the_state_and_moves_the_offset(store: Any) -> None:
    store.write(0, {b"k": b"v"}, 3)
    store.write(0, {b"k": None}, 4)
    assert store.read(0, [b"k"]) == [None]
    assert store.persisted_offset(TP("email-states", 0)) == 4


def test_recovery_takes_out_what_a_tombstone_took(store: Any) -> None:
    store.write(0, {b"gone": b"1", b"back": b"2", b"late": b"3"}, 9)

    def record(offset: int, key: bytes, value: bytes | None) -> SimpleNamespace:
        return SimpleNamespace(offset=offset, key=key, value=value)

    told = [record(10, b"gone", None), record(11, b"back", None), record(12, b"back", b"4"), record(9, b"late", None)]
    message = SimpleNamespace(tp=TP("email-states", 0), value=FetchedBatch(OffsetRange(10, 13, told), 0))
    store._apply(message.tp, [message])
    assert store.read(0, [b"gone", b"back", b"late"]) == [None, b"4", b"3"]


def test_the_notes_and_the_states_share_no_key() -> None:
    assert stores.SCAN_POSITION_KEY.startswith(stores.INTERNAL_KEY_PREFIX)
    assert stores.StateStore.offset_key.startswith(stores.INTERNAL_KEY_PREFIX)
    assert stores.StateStore.offset_key != stores.SCAN_POSITION_KEY
