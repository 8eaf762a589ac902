"""States on local disk, a RocksDB per partition: what is confirmed in the changelog goes in, bytes by key come out.

Faust's store finds the partition from "the current event", which a batch does not have; here it is
named. The changelog's offset is written with the states, in one write batch, and only ever grows.
None for a state is a tombstone: it goes.
"""

import contextlib
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import rocksdict
from faust import stores
from faust.stores.rocksdb import RocksDBOptions
from faust.stores.rocksdb import Store as FaustStore

from pipeline.errors import OffsetLost, PartitionNotAssigned

SCHEME: Final = "mailfold-rocksdb"
MEGABYTE: Final = 1024 * 1024
SCAN_MAX_STATES: Final = 100
"""States that a walk looks at at once, and"""
SCAN_MAX_BYTES: Final = 256 * 1024
"""their bytes, beyond which it looks at no more: together about a millisecond."""

KeyedState = tuple[bytes, bytes]
"""A key and its state."""
INTERNAL_KEY_PREFIX: Final = b"__"
"""What the keys of the store's own notes begin with; Faust's offset is one."""
SCAN_POSITION_KEY: Final = INTERNAL_KEY_PREFIX + b"mailfold\0place__"
CORRUPTION_MESSAGES: Final = ("Corruption", "No such file")
"""What RocksDB says of files that are not what they were; a full disk or a neighbour's lock is neither."""
_log = logging.getLogger(__name__)


class StateStoreOptions(RocksDBOptions):
    """Faust's defaults are 2 GB of cache and 192 MB of write buffers, per partition; these are per process."""

    cache: Any = None

    def as_options(self) -> Any:
        """One small cache for all partitions, one small write buffer each."""
        if StateStoreOptions.cache is None:
            StateStoreOptions.cache = rocksdict.Cache(64 * MEGABYTE)
        tables = rocksdict.BlockBasedOptions()
        tables.set_block_cache(StateStoreOptions.cache)
        tables.set_bloom_filter(10, block_based=False)
        tables.set_cache_index_and_filter_blocks(True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(64)
        options.set_write_buffer_size(16 * MEGABYTE)
        options.set_max_write_buffer_number(2)
        options.set_target_file_size_base(16 * MEGABYTE)
        options.set_keep_log_file_num(2)
        options.set_block_based_table_factory(tables)
        # Keys that begin with a time leave side by side, and who looks for the next one steps over each that left
        # (20,000 are 10 ms) until they are compacted away: a file where half of a thousand entries are gone is next.
        options.add_compact_on_deletion_collector_factory(1_000, 500, 0.5)
        return options


class StateStore(FaustStore):
    """RocksDB by explicit partition."""

    logger = logging.getLogger("faust.stores")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rocksdb_options = StateStoreOptions()
        # Kafka is the log: what a kill takes of the last seconds is read again from the changelog, and nothing more,
        # because states and offset lie in one batch. An orderly end writes everything to disk.
        self._unlogged = rocksdict.WriteOptions()
        self._unlogged.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; the stub is wrong
        # Who walks through all states must not push those that are in use out of the cache.
        self._in_passing = rocksdict.ReadOptions()
        self._in_passing.fill_cache(False)  # type: ignore[call-arg]  # the stub is wrong

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of ``keys``. Raises NotOurs where the partition is (no longer) ours."""
        db = self._ours(partition)
        try:
            found: list[bytes | None] = db.get(list(keys))
        except Exception as error:
            self._mistrust(partition, error)
            raise
        return found

    def persisted_offset(self, tp: Any) -> int | None:
        """Up to where its changelog is in a partition's store; None where nothing is."""
        try:
            offset: int | None = super().persisted_offset(tp)
        except Exception as error:
            self._mistrust(tp.partition, error)
            raise
        return offset

    def write(self, partition: int, values: Mapping[bytes, bytes | None], offset: int) -> None:
        """Keep values whose last one is confirmed in the changelog at ``offset``. Raises NotOurs."""
        self._write(self._ours(partition), values.items(), offset)

    def next_states(self, partition: int, place: bytes) -> list[KeyedState]:
        """A few states whose keys come after ``place``; none where it was the last. Raises NotOurs."""
        found: list[KeyedState] = []
        size = 0
        states = self._ours(partition).iter(self._in_passing)
        states.seek(place + b"\0")
        while states.valid() and len(found) < SCAN_MAX_STATES and size < SCAN_MAX_BYTES:
            key, value = states.key(), states.value()
            if not key.startswith(INTERNAL_KEY_PREFIX):
                found.append((key, value))
                size += len(value)
            states.next()
        states.status()  # raises where the disk, and not the last state, was the end
        return found

    def scan_position(self, partition: int) -> bytes:
        """Where a walk through this partition's states is. Raises NotOurs."""
        place: bytes = self._ours(partition).get(SCAN_POSITION_KEY, b"")
        return place

    def save_scan_position(self, partition: int, place: bytes) -> None:
        """A walk goes on from here after a restart: one that began anew each time might never reach the end."""
        self._ours(partition).put(SCAN_POSITION_KEY, place, self._unlogged)

    def compact_removed(self, partition: int) -> None:
        """Have what left compacted away, in the background: in memory it would be stepped over. Raises NotOurs."""
        self._ours(partition).flush(False)

    def size(self, partition: int) -> int:
        """How many states there are, about; at least one. Raises NotOurs."""
        about: int = self._ours(partition).property_int_value("rocksdb.estimate-num-keys") or 0
        return max(1, about)

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Recovery. What is not newer than the store is left out: a late record must not undo a later write."""
        try:
            by_tp: dict[Any, list[Any]] = defaultdict(list)
            for event in batch:
                by_tp[event.message.tp].append(event.message)
            for tp, messages in by_tp.items():
                self._apply(tp, messages)
        except Exception as error:
            # Recovery swallows exceptions and goes on; a hole in the states must end the worker.
            _log.critical("recovering states failed: %s", error)
            self.app.loop.create_task(self.app.crash(error))
            raise

    def revoke_partitions(self, table: Any, tps: set[Any]) -> None:
        """Close at once, so that a neighbour on the same disk can open."""
        for tp in tps:
            if tp.topic in table.changelog_topic.topics and (db := self._dbs.pop(tp.partition, None)) is not None:
                db.close()

    async def stop(self) -> None:
        """Close all."""
        while self._dbs:
            self._dbs.popitem()[1].close()

    def _apply(self, tp: Any, messages: list[Any]) -> None:
        have = self.persisted_offset(tp)
        values: dict[bytes, bytes | None] = {}
        for message in messages:
            span = message.value.span
            if have is not None and span.end <= have + 1:
                continue
            if have is not None and span.start > have + 1:
                raise OffsetLost(f"{tp}: {span.start} arrived, but of the changelog only {have} is in the store")
            values.update((record.key, record.value) for record in span.records if have is None or record.offset > have)
            have = span.end - 1
        if have is not None:
            self._write(self._db_for_partition(tp.partition), values.items(), have)

    def _open_for_partition(self, partition: int) -> Any:
        """A store that is broken is no loss: its changelog has all of it."""
        try:
            return super()._open_for_partition(partition)
        except Exception as error:
            self._mistrust(partition, error)
            return super()._open_for_partition(partition)

    def _mistrust(self, partition: int, error: Exception) -> None:
        """Remove a broken store, so that whoever opens it next begins with an empty one. Raises any other error."""
        if not any(word in str(error) for word in CORRUPTION_MESSAGES):
            raise error
        _log.error("the store of partition %s is broken; it is made anew from the log: %s", partition, error)
        if (db := self._dbs.pop(partition, None)) is not None:
            with contextlib.suppress(Exception):
                db.close()
        shutil.rmtree(self.partition_path(partition))

    def _ours(self, partition: int) -> Any:
        try:
            return self._dbs[partition]
        except KeyError:
            raise PartitionNotAssigned(f"partition {partition} of the states is not this worker's") from None

    def _write(self, db: Any, values: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in values:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(self.offset_key, str(offset).encode())
        db.write(batch, self._unlogged)


def register() -> None:
    """Let Faust find this store by its scheme."""
    stores.STORES.aliases[SCHEME] = f"{__name__}:StateStore"
