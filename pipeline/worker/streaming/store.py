"""The states on local disk, one RocksDB per partition; holds only what is confirmed in the changelog.

Faust's store takes the partition from "the current event", which a batch does not have; here callers name it. The
changelog's offset is written with the states in one write batch and never decreases. None for a state removes it.
The partition writers read and write it, Faust's recovery fills it.
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
from pipeline.runtime.observing.logs import get_logger

SCHEME: Final = "mailfold-rocksdb"
MEGABYTE: Final = 1024 * 1024
SCAN_MAX_STATES: Final = 100
"""States that one step of the expiry scan reads, at most."""
SCAN_MAX_BYTES: Final = 256 * 1024
"""Bytes after which a step reads no further state; both limits together keep it at about a millisecond."""

KeyedState = tuple[bytes, bytes]
"""A key and its state."""
INTERNAL_KEY_PREFIX: Final = b"__"
"""Prefix of the keys of the store's own entries, such as Faust's offset."""
LOG_KEY: Final = INTERNAL_KEY_PREFIX + b"mailfold\0log__"
"""Key of the cluster's id and the topic of which a store is a copy."""
SCAN_POSITION_KEY: Final = INTERNAL_KEY_PREFIX + b"mailfold\0place__"
CORRUPTION_MESSAGES: Final = ("Corruption", "No such file")
"""Parts of RocksDB's messages about damaged files; a full disk or another process's lock has other messages."""
_log = get_logger(__name__)


class StateStoreOptions(RocksDBOptions):
    """RocksDB options with a cache per process; Faust's are 2 GB of cache and 192 MB of buffers per partition."""

    cache: Any = None

    def as_options(self) -> Any:
        """Return options with one small cache for all partitions and two small write buffers each."""
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
        # Keys that begin with a time are removed next to each other, and a scan steps over each removed one (20,000
        # take 10 ms) until compaction: compact a file once half of a thousand consecutive entries are removed.
        options.add_compact_on_deletion_collector_factory(1_000, 500, 0.5)
        return options


class StateStore(FaustStore):
    """Faust's RocksDB store with explicit partitions."""

    logger = logging.getLogger("faust.stores")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rocksdb_options = StateStoreOptions()
        # No write-ahead log: after a kill the last seconds are recovered from the changelog, and exactly those, because
        # states and offset are in one write batch. An orderly shutdown writes everything to disk.
        self._without_wal = rocksdict.WriteOptions()
        self._without_wal.disable_wal = True  # type: ignore[method-assign,assignment]  # a property; the stub is wrong
        # A scan of all states must not displace the ones in use from the cache.
        self._uncached = rocksdict.ReadOptions()
        self._uncached.fill_cache(False)  # type: ignore[call-arg]  # the stub is wrong

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of ``keys`` in their order. Raises PartitionNotAssigned."""
        db = self._assigned(partition)
        try:
            values: list[bytes | None] = db.get(list(keys))
        except Exception as error:
            self._remove_if_corrupt(partition, error)
            raise
        return values

    def persisted_offset(self, tp: Any) -> int | None:
        """Return the last changelog offset in the partition's store; None in an empty store."""
        try:
            offset: int | None = super().persisted_offset(tp)
        except Exception as error:
            self._remove_if_corrupt(tp.partition, error)
            raise
        return offset

    def discard_if_foreign(self, tp: Any, cluster_id: str) -> bool:
        """Remove a partition's store if it is a copy of another log; return whether it was removed.

        Version 0.1 did not write down of which one: its stores are taken for copies of this log.
        """
        db = self._db_for_partition(tp.partition)
        log = f"{cluster_id}/{tp.topic}".encode()
        stored: bytes | None = db.get(LOG_KEY)
        is_foreign = stored is not None and stored != log
        if is_foreign:
            _log.error(
                "store is a copy of another log, removed; it is recovered from this one",
                partition=tp.partition,
                stored=(stored or b"").decode(errors="replace"),
                log=log.decode(),
            )
            self._remove(tp.partition)
            db = self._db_for_partition(tp.partition)
        if is_foreign or stored is None:
            db.put(LOG_KEY, log, self._without_wal)
        return is_foreign

    def discard_if_ahead(self, tp: Any, end: int) -> bool:
        """Remove a partition's store if it has states from beyond the changelog's end; return whether it was removed.

        It is a copy of the changelog, from which it is then recovered.
        """
        offset = self.persisted_offset(tp)
        if offset is None or offset < end:
            return False
        _log.error(
            "store has more than the log, removed; it is recovered from the log",
            partition=tp.partition,
            offset=offset,
            end=end,
        )
        self._remove(tp.partition)
        return True

    def write(self, partition: int, values: Mapping[bytes, bytes | None], offset: int) -> None:
        """Store values, the last of which is confirmed in the changelog at ``offset``. Raises PartitionNotAssigned."""
        self._write(self._assigned(partition), values.items(), offset)

    def next_states(self, partition: int, after_key: bytes) -> list[KeyedState]:
        """Return the next few states in key order; none at the end. Raises PartitionNotAssigned."""
        states: list[KeyedState] = []
        size = 0
        cursor = self._assigned(partition).iter(self._uncached)
        cursor.seek(after_key + b"\0")
        while cursor.valid() and len(states) < SCAN_MAX_STATES and size < SCAN_MAX_BYTES:
            key, value = cursor.key(), cursor.value()
            if not key.startswith(INTERNAL_KEY_PREFIX):
                states.append((key, value))
                size += len(value)
            cursor.next()
        cursor.status()  # raises if a disk error, and not the last state, ended the loop
        return states

    def scan_position(self, partition: int) -> bytes:
        """Return the key of the last scanned state; empty at the start of a scan. Raises PartitionNotAssigned."""
        key: bytes = self._assigned(partition).get(SCAN_POSITION_KEY, b"")
        return key

    def save_scan_position(self, partition: int, key: bytes) -> None:
        """Save where a scan continues after a restart; one that started over each time might never finish."""
        self._assigned(partition).put(SCAN_POSITION_KEY, key, self._without_wal)

    def compact_removed(self, partition: int) -> None:
        """Flush removals to disk in the background, where they are compacted away. Raises PartitionNotAssigned."""
        self._assigned(partition).flush(False)

    def size(self, partition: int) -> int:
        """Return the estimated number of states, at least one. Raises PartitionNotAssigned."""
        estimate: int = self._assigned(partition).property_int_value("rocksdb.estimate-num-keys") or 0
        return max(1, estimate)

    def partitions(self) -> list[int]:
        """Return the partitions whose stores are open."""
        return sorted(self._dbs)

    def file_bytes(self, partition: int) -> int:
        """Return the bytes of a partition's files. Raises PartitionNotAssigned."""
        size: int = self._assigned(partition).property_int_value("rocksdb.total-sst-files-size") or 0
        return size

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Store recovered records that are newer than the store: a late record must not undo a later write."""
        try:
            by_tp: dict[Any, list[Any]] = defaultdict(list)
            for event in batch:
                by_tp[event.message.tp].append(event.message)
            for tp, messages in by_tp.items():
                self._apply(tp, messages)
        except Exception as error:
            # Faust's recovery swallows exceptions and continues; missing states must stop the worker.
            _log.critical("recovering states failed", error=str(error))
            self.app.loop.create_task(self.app.crash(error))
            raise

    def revoke_partitions(self, table: Any, tps: set[Any]) -> None:
        """Close the partitions' stores at once, so that another worker on the same disk can open them."""
        for tp in tps:
            if tp.topic in table.changelog_topic.topics and (db := self._dbs.pop(tp.partition, None)) is not None:
                db.close()

    async def stop(self) -> None:
        """Close all stores."""
        while self._dbs:
            self._dbs.popitem()[1].close()

    def _apply(self, tp: Any, messages: list[Any]) -> None:
        stored = self.persisted_offset(tp)
        values: dict[bytes, bytes | None] = {}
        for message in messages:
            span = message.value.span
            if stored is not None and span.end <= stored + 1:
                continue
            if stored is not None and span.start > stored + 1:
                raise OffsetLost(f"{tp}: {span.start} arrived, but of the changelog only {stored} is in the store")
            values.update(
                (record.key, record.value) for record in span.records if stored is None or record.offset > stored
            )
            stored = span.end - 1
        if stored is not None:
            self._write(self._db_for_partition(tp.partition), values.items(), stored)

    def _open_for_partition(self, partition: int) -> Any:
        """Open a partition's store; replace a corrupt one by an empty one, which recovers from its changelog."""
        try:
            return super()._open_for_partition(partition)
        except Exception as error:
            self._remove_if_corrupt(partition, error)
            return super()._open_for_partition(partition)

    def _remove_if_corrupt(self, partition: int, error: Exception) -> None:
        """Remove a corrupt store, so that the next one to open it starts empty. Raises any other error."""
        if not any(message in str(error) for message in CORRUPTION_MESSAGES):
            raise error
        _log.error("store corrupt, removed; it is recovered from the log", partition=partition, error=str(error))
        self._remove(partition)

    def _remove(self, partition: int) -> None:
        if (db := self._dbs.pop(partition, None)) is not None:
            with contextlib.suppress(Exception):
                db.close()
        shutil.rmtree(self.partition_path(partition))

    def _assigned(self, partition: int) -> Any:
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
        db.write(batch, self._without_wal)


def register() -> None:
    """Let Faust find this store by its scheme."""
    stores.STORES.aliases[SCHEME] = f"{__name__}:StateStore"
