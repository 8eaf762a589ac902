"""Runs of webhooks in progress: small records are appended at once, the others when a process has read them.

Runs are finished in order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.crashpoints import crash_point
from pipeline.webhooks.normalize import EncodedRecord, is_heavy
from pipeline.worker.agents import Normalizer
from pipeline.worker.fold_batch import RecordBatch

SLICE_BYTES: Final = 65_536
"""What is normalized before the event loop has a turn: about 4 ms."""
MAX_HEAVY_BYTES: Final = 32 * 1024 * 1024
"""Bytes of records that wait for a process; at this limit no run is accepted, and fetching stops."""
MAX_HEAVY_ITEMS: Final = 256

AppendRecords = Callable[[Sequence[EncodedRecord]], Awaitable[None]]


class NormalizingBacklog:
    """Begins runs side by side and finishes them in the order in which they came.

    A slow mail delays neither the other records of its run nor later runs: their events are appended before it is done.
    Only their offsets wait, so that a crash loses nothing; repeated events are one fact.
    """

    def __init__(
        self, normalizer: Normalizer, append: AppendRecords, fail: Callable[[BaseException], Awaitable[None]]
    ) -> None:
        self._normalizer = normalizer
        self._append = append
        self._fail = fail
        self._under_way: asyncio.Queue[tuple[list[asyncio.Task[None]], Callable[[], Any]]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heavy_items = self._heavy_bytes = 0
        self._room = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start the task that finishes runs."""
        self._spawn(self._finish())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the runs in progress: their offsets are not committed, and they are read again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, run: RecordBatch, finish: Callable[[], Any]) -> None:
        """Begin a run, as soon as there is room for it; ``finish`` it after the runs before it."""
        light, heavy = divide(run)
        await self._wait_for_room()
        tasks = [self._begin(found) for found in heavy]
        some: list[EncodedRecord] = []
        size = 0
        for found in light:
            some += self._normalizer.normalize_inline(found)
            size += len(found.value or b"")
            if size >= SLICE_BYTES:
                size = 0
                await asyncio.sleep(0)
        await self._append(some)
        self._under_way.put_nowait((tasks, finish))

    def _begin(self, found: ConsumedRecord) -> "asyncio.Task[None]":
        self._heavy_items += 1
        self._heavy_bytes += len(found.value or b"")
        return self._spawn(self._work(found))

    async def _work(self, found: ConsumedRecord) -> None:
        try:
            await self._append(await self._normalizer.normalize_in_process(found))
        finally:
            self._heavy_items -= 1
            self._heavy_bytes -= len(found.value or b"")
            self._room.set()

    async def _wait_for_room(self) -> None:
        while self._heavy_items >= MAX_HEAVY_ITEMS or self._heavy_bytes >= MAX_HEAVY_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _finish(self) -> None:
        try:
            while True:
                tasks, finish = await self._under_way.get()
                await asyncio.gather(*tasks)
                crash_point("normalize.before-ack")
                finish()
        except Exception as error:
            await self._fail(error)

    def _spawn(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def divide(run: RecordBatch) -> tuple[list[ConsumedRecord], list[ConsumedRecord]]:
    """Return the records that are normalized at once, and those that a process takes."""
    light: list[ConsumedRecord] = []
    heavy: list[ConsumedRecord] = []
    for found in run.consumed_records():
        (heavy if is_heavy(found.value) else light).append(found)
    return light, heavy
