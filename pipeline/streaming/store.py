"""States on local disk, a RocksDB per partition: what is confirmed in the changelog goes in, bytes by key come out.

Faust's store finds the partition from "the current event", which a batch does not have; here it is
named. The changelog's offset is written with the states, in one write batch, and only ever grows.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import rocksdict
from faust import stores
from faust.stores.rocksdb import RocksDBOptions
from faust.stores.rocksdb import Store as FaustStore

from pipeline.errors import NotOurs

SCHEME: Final = "mailfold-rocksdb"
MEGABYTE: Final = 1024 * 1024
_log = logging.getLogger(__name__)


class Options(RocksDBOptions):
    """Faust's defaults are 2 GB of cache and 192 MB of write buffers, per partition; these are per process."""

    cache: Any = None

    def as_options(self) -> Any:
        """One small cache for all partitions, one small write buffer each."""
        if Options.cache is None:
            Options.cache = rocksdict.Cache(64 * MEGABYTE)
        tables = rocksdict.BlockBasedOptions()
        tables.set_block_cache(Options.cache)
        tables.set_bloom_filter(10, block_based=False)
        tables.set_cache_index_and_filter_blocks(True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(64)
        options.set_write_buffer_size(4 * MEGABYTE)
        options.set_max_write_buffer_number(2)
        options.set_target_file_size_base(16 * MEGABYTE)
        options.set_keep_log_file_num(2)
        options.set_block_based_table_factory(tables)
        return options


class Store(FaustStore):
    """RocksDB by explicit partition."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rocksdb_options = Options()

    def read(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of ``keys``. Raises NotOurs where the partition is (no longer) ours."""
        found: list[bytes | None] = self._ours(partition).get(list(keys))
        return found

    def write(self, partition: int, values: Mapping[bytes, bytes], offset: int) -> None:
        """Keep values whose last one is confirmed in the changelog at ``offset``. Raises NotOurs."""
        self._write(self._ours(partition), values.items(), offset)

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Recovery. What is not newer than the store is left out: a late record must not undo a later write."""
        try:
            newer: dict[int, tuple[dict[bytes, bytes | None], int]] = {}
            for event in batch:
                message = event.message
                have = self.persisted_offset(message.tp)
                values, offset = newer.setdefault(message.partition, ({}, -1 if have is None else have))
                if message.offset > offset:
                    values[message.key] = message.value
                    newer[message.partition] = (values, message.offset)
            for partition, (values, offset) in newer.items():
                self._write(self._db_for_partition(partition), values.items(), offset)
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

    def _ours(self, partition: int) -> Any:
        try:
            return self._dbs[partition]
        except KeyError:
            raise NotOurs(f"partition {partition} of the states is not this worker's") from None

    def _write(self, db: Any, values: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in values:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(self.offset_key, str(offset).encode())
        db.write(batch)


def register() -> None:
    """Let Faust find this store by its scheme."""
    stores.STORES.aliases[SCHEME] = f"{__name__}:Store"
