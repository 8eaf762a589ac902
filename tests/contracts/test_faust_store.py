"""Our store of states on a real disk, without a broker: what recovery writes into it, and what it must not."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from pipeline.errors import OffsetLost, PartitionNotAssigned
from pipeline.settings import Settings
from pipeline.worker.streaming.app import WorkerFlow
from pipeline.worker.streaming.fetch import OffsetRange

CHANGELOG = TP("email-states", 3)


class Disk:
    """A worker's store, and what its changelog brings."""

    def __init__(self, folder: Path) -> None:
        flow = WorkerFlow(Settings(data_dir=folder, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
        flow.app.finalize()
        self.app = flow.app
        self.table: Any = flow.app.tables["email-states"]
        self.store: Any = self.table.data

    def recover(self, *runs: tuple[int, int, dict[int, tuple[bytes, bytes | None]]]) -> None:
        """Runs of the changelog: from, to, and the records between."""
        events = [
            SimpleNamespace(
                message=SimpleNamespace(
                    tp=CHANGELOG,
                    value=SimpleNamespace(
                        span=OffsetRange(
                            start,
                            end,
                            [
                                SimpleNamespace(offset=offset, key=key, value=value)
                                for offset, (key, value) in records.items()
                            ],
                        )
                    ),
                )
            )
            for start, end, records in runs
        ]
        self.store.apply_changelog_batch(events, None, None)

    def read_all(self) -> None:
        self.store.persisted_offset(CHANGELOG)
        self.store.read(3, [b"%d" % n for n in range(9)])

    def close(self) -> None:
        self.store.revoke_partitions(self.table, {CHANGELOG})


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


async def test_recovery_stores_last_value_per_key_and_offset(disk: Disk) -> None:
    disk.recover((0, 3, {0: (b"a", b"1"), 1: (b"b", b"1"), 2: (b"a", b"2")}), (3, 6, {4: (b"b", b"2")}))
    assert disk.store.read(3, [b"a", b"b", b"c"]) == [b"2", b"2", None]
    assert disk.store.persisted_offset(CHANGELOG) == 5


async def test_a_tombstone_removes_its_key(disk: Disk) -> None:
    disk.recover((0, 1, {0: (b"a", b"1")}))
    disk.recover((1, 2, {1: (b"a", None)}))
    assert disk.store.read(3, [b"a"]) == [None]


async def test_older_records_do_not_overwrite_the_store(disk: Disk) -> None:
    disk.recover((0, 1, {0: (b"a", b"0")}))
    disk.store.write(3, {b"a": b"newest"}, 10)
    disk.recover((5, 8, {5: (b"a", b"old")}))
    assert disk.store.persisted_offset(CHANGELOG) == 10
    disk.recover((9, 13, {9: (b"a", b"old"), 12: (b"b", b"new")}))
    assert disk.store.read(3, [b"a", b"b"]) == [b"newest", b"new"]
    assert disk.store.persisted_offset(CHANGELOG) == 12


async def test_batch_without_records_advances_the_offset(disk: Disk) -> None:
    """Markers of transactions."""
    disk.recover((0, 1, {0: (b"a", b"1")}), (1, 2, {}), (2, 3, {2: (b"a", b"2")}))
    assert disk.store.persisted_offset(CHANGELOG) == 2


async def test_gap_in_recovery_crashes_the_worker(disk: Disk) -> None:
    disk.recover((0, 5, {4: (b"a", b"1")}))
    with pytest.raises(OffsetLost, match="8 arrived, but of the changelog only 4 is in the store"):
        disk.recover((8, 9, {8: (b"a", b"2")}))
    await asyncio.sleep(0)
    assert isinstance(disk.app.crash_reason, OffsetLost)
    assert disk.store.read(3, [b"a"]) == [b"1"]
    assert disk.store.persisted_offset(CHANGELOG) == 4


async def test_empty_store_has_no_offset(disk: Disk) -> None:
    disk.recover((7, 9, {7: (b"a", b"1")}))
    assert disk.store.persisted_offset(CHANGELOG) == 8


async def test_states_and_offset_survive_an_orderly_stop(disk: Disk, tmp_path: Path) -> None:
    disk.recover((0, 1, {0: (b"a", b"0")}))
    disk.store.write(3, {b"a": b"1"}, 6)
    await disk.store.stop()
    with pytest.raises(PartitionNotAssigned):
        disk.store.read(3, [b"a"])
    again = Disk(tmp_path)
    assert again.store.persisted_offset(CHANGELOG) == 6
    assert again.store.read(3, [b"a"]) == [b"1"]
    again.close()


async def test_revoked_partition_can_be_opened_by_another_worker(disk: Disk, tmp_path: Path) -> None:
    disk.recover((0, 1, {0: (b"a", b"1")}))
    disk.close()
    neighbour = Disk(tmp_path)
    neighbour.recover((1, 2, {1: (b"a", b"2")}))
    assert neighbour.store.read(3, [b"a"]) == [b"2"]
    neighbour.close()


FILES = ("CURRENT", "MANIFEST-*", "*.sst", "rocksdict-config.json")


@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
@pytest.mark.parametrize("file", FILES)
async def test_corrupt_store_is_replaced_and_recovered(file: str, harm: str, disk: Disk, tmp_path: Path) -> None:
    disk.recover((0, 9, {n: (b"%d" % n, b"x" * 1000) for n in range(9)}))
    await disk.store.stop()
    for path in disk.store.partition_path(3).glob(file):
        content = path.read_bytes()
        path.unlink() if harm == "gone" else path.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    again = Disk(tmp_path)
    assert again.store.persisted_offset(CHANGELOG) in (None, 8)
    again.recover((0, 9, {n: (b"%d" % n, b"y") for n in range(9)}), (9, 10, {9: (b"0", b"z")}))
    assert again.store.read(3, [b"0"]) == [b"z"]
    again.close()


async def test_corrupt_state_on_disk_is_not_returned(disk: Disk, tmp_path: Path) -> None:
    disk.recover((0, 9, {n: (b"%d" % n, random.Random(n).randbytes(5000)) for n in range(9)}))
    await disk.store.stop()
    for path in disk.store.partition_path(3).glob("*.sst"):
        content = bytearray(path.read_bytes())
        content[100] ^= 0xFF
        path.write_bytes(content)
    again = Disk(tmp_path)
    with pytest.raises(Exception, match="Corruption"):
        again.read_all()
    assert again.store.persisted_offset(CHANGELOG) is None
    again.close()
