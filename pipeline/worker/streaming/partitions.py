"""A lane per partition: folded runs in, order kept; written in transactions, stored, finished.

While one group of runs is on its way to the log, the next one fills: the states of both are seen by
whoever reads before the store is asked. Where there is little to do nothing waits but for `PACE`;
the more there is to do, the larger a transaction becomes.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from pipeline.errors import Fenced, LogUnavailable, PartitionNotAssigned, TopicMismatch
from pipeline.runtime.crashpoints import crash_point
from pipeline.settings import Settings
from pipeline.worker.streaming.commit_batch import CommitBatch, FoldResult
from pipeline.worker.streaming.producer import TransactionalProducer
from topics.registry import EMAIL_STATES, FACT_TOPICS

MIN_TRANSACTION_INTERVAL_S: Final = 0.02
"""Seconds from one transaction's beginning to the next one's, where little is to be done: each costs a few
milliseconds of this process and of the brokers."""
FLUSH_MIN_RECORDS: Final = 2_000
"""Records that don't wait for it."""
FENCED_TIMEOUT_S: Final = 20.0
"""Seconds for the group to tell a fenced worker what is going on; then a restart finds out."""

_log = logging.getLogger("mailfold.worker")


class PartitionWriter:
    """One partition of the facts, of its states and of its changes."""

    def __init__(self, partition: int, gate: TransactionalProducer, store: Any, app: Any) -> None:
        self.partition = partition
        self._gate = gate
        self._store = store
        self._app = app
        self._filling, self._flying = CommitBatch(), CommitBatch()
        self._some, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._open = True
        self._task = asyncio.create_task(self._work(), name=f"lane {partition}")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """The states as they will be once everything is written. Raises NotOurs."""
        found: dict[bytes, bytes | None] = {}
        unknown = []
        filling, flying = self._filling.states, self._flying.states
        for key in keys:
            if key in filling:  # by its key: None is known, too, of a state that is leaving
                found[key] = filling[key]
            elif key in flying:
                found[key] = flying[key]
            else:
                unknown.append(key)
        if unknown:
            found.update(zip(unknown, self._store.read(self.partition, unknown), strict=True))
        return found

    async def wait_for_room(self) -> bool:
        """Wait until another run may be added; False where this lane is closed."""
        await self._room.wait()
        return self._open

    def add(self, message: Any, step: FoldResult) -> None:
        """Write this, in the order of the calls."""
        self._filling.add(message, step)
        if self._filling.is_full():
            self._room.clear()
        self._some.set()

    def expire(self, keys: Iterable[bytes]) -> int:
        """Take these states out of the table, but for those of which there is news on its way; how many go.

        Call it in one breath with the reading of the states: whatever is folded in between would go as well.
        """
        if not self._open:
            return 0
        filling, flying = self._filling.states, self._flying.states
        gone = dict.fromkeys(key for key in keys if key not in filling and key not in flying)
        if gone:
            filling |= gone
            self._some.set()
        return len(gone)

    async def close(self) -> None:
        """Drop what is not written: it is fetched again, by whoever comes next."""
        self._shut()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._gate.close()

    async def _work(self) -> None:
        began = -MIN_TRANSACTION_INTERVAL_S
        try:
            while self._open:
                await self._some.wait()
                pause = began + MIN_TRANSACTION_INTERVAL_S - self._app.loop.time()
                if pause > 0 and self._filling.record_count < FLUSH_MIN_RECORDS:
                    await asyncio.sleep(pause)
                began = self._app.loop.time()
                self._flying, self._filling = self._filling, CommitBatch()
                self._some.clear()
                self._room.set()
                await self._write(self._flying)
        except Fenced:
            await self._wait_for_the_group()
        except Exception as error:
            self._shut()
            await self._app.crash(error)

    async def _write(self, group: CommitBatch) -> None:
        """Confirm, then store, then finish."""
        ends = await self._gate.write(group.writes(self.partition), group.offsets())
        if not self._open:  # written, but the store is another lane's now: that one recovers it from the log
            return
        crash_point("fold.before-store")
        if group.states:
            try:
                self._store.write(self.partition, group.states, ends[EMAIL_STATES.name, self.partition])
            except PartitionNotAssigned:
                # An orderly end waits for facts, not for tombstones: the store is closed, and recovers them some day.
                if group.messages:
                    raise
        self._flying = CommitBatch()
        crash_point("fold.before-ack")
        for message in group.messages:
            self._app.consumer.mark_committed(message)

    async def _wait_for_the_group(self) -> None:
        """Another worker has this partition. The group says so by and by, and then this lane is closed."""
        _log.warning("partition %s is another worker's now; letting go of it", self.partition)
        self._shut()
        await asyncio.sleep(FENCED_TIMEOUT_S)
        await self._app.crash(LogUnavailable(f"locked out of partition {self.partition}, and the group is silent"))

    def _shut(self) -> None:
        self._open = False
        self._room.set()
        for message in self._filling.messages + self._flying.messages:
            self._app.consumer.discard(message)
        self._filling, self._flying = CommitBatch(), CommitBatch()


class PartitionWriters:
    """The lanes of the partitions that are this worker's."""

    def __init__(self, settings: Settings, app: Any, store: Any) -> None:
        self._settings = settings
        self._app = app
        self._store = store
        self._lanes: dict[int, PartitionWriter] = {}
        self.topics = frozenset(settings.topic(topic.name) for topic in FACT_TOPICS)
        """Whose offsets are committed together with what came of them."""
        self._together = self.topics | {settings.topic(EMAIL_STATES.name)}

    def __getitem__(self, partition: int) -> PartitionWriter:
        """Raises NotOurs."""
        try:
            return self._lanes[partition]
        except KeyError:
            raise PartitionNotAssigned(f"partition {partition} is another worker's now") from None

    def __iter__(self) -> Iterator[PartitionWriter]:
        """Those of this moment."""
        return iter(list(self._lanes.values()))

    async def take_over(self, assigned: Iterable[Any]) -> None:
        """Fence every predecessor. Raises LogUnavailable, and TopicMismatch where a lane would be torn apart."""
        await self.close()
        gates = {
            number: TransactionalProducer(self._settings, self._app.conf.id, number)
            for number in self._numbers(assigned)
        }
        await asyncio.gather(*(gate.open() for gate in gates.values()))
        self._lanes = {number: PartitionWriter(number, gate, self._store, self._app) for number, gate in gates.items()}

    async def let_go(self, revoked: Iterable[Any]) -> None:
        """These partitions move."""
        gone = {tp.partition for tp in revoked if tp.topic in self.topics} & self._lanes.keys()
        await asyncio.gather(*(self._lanes.pop(number).close() for number in gone))

    async def close(self) -> None:
        """Let go of all."""
        lanes, self._lanes = self._lanes, {}
        await asyncio.gather(*(lane.close() for lane in lanes.values()))

    def _numbers(self, assigned: Iterable[Any]) -> set[int]:
        """An email's facts of all topics and its state must meet in one worker."""
        topics: dict[int, set[str]] = defaultdict(set)
        for tp in assigned:
            if tp.topic in self._together:
                topics[tp.partition].add(tp.topic)
        torn = sorted(number for number, names in topics.items() if names != self._together)
        if torn:
            raise TopicMismatch(f"facts and states of partitions {torn} are assigned to different workers")
        return set(topics)
